import pytest
import torch

from iris_gym.nn.convnet import ResidualBlock, strided_decoder, strided_encoder


@pytest.mark.parametrize("downsamplings", [1, 2, 3, 4, 5])
def test_every_downsampling_halves_the_side_and_the_decoder_undoes_it(downsamplings):
    side = 64 // 2**downsamplings
    outputs = strided_encoder(8, downsamplings, 5)(torch.rand(2, 3, 64, 64))
    assert outputs.shape == (2, 5, side, side)
    assert strided_decoder(8, downsamplings, 5)(outputs).shape == (2, 3, 64, 64)


def test_a_residual_block_adds_to_its_input():
    block = ResidualBlock(16)
    x = torch.rand(2, 16, 6, 5)
    assert block(x).shape == x.shape
    torch.nn.init.zeros_(block.layers[-1].weight)
    torch.nn.init.zeros_(block.layers[-1].bias)
    assert torch.equal(block(x), x)


def test_an_encoder_output_sees_its_own_corner_of_the_frame():
    # Two convolutions without the normalisation that would spread a change over the whole frame.
    encoder = strided_encoder(8, 1, 4)
    frame, changed = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    changed[:, :, 0, 0] = 1
    difference = (encoder(frame) - encoder(changed)).abs().amax((0, 1))
    assert difference[0, 0] > 0
    assert difference[1:, 1:].max() == 0


def test_a_decoder_starts_each_quadrant_from_one_code():
    decoder = strided_decoder(8, 1, 4)
    codes, changed = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    changed[:, :, 0, 3] = 1
    difference = (decoder(codes) - decoder(changed)).abs().amax((0, 1))
    assert (difference[:2, 6:] > 0).all()
    assert difference[3:].max() == 0
    assert difference[:, :5].max() == 0

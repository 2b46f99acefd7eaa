import pytest
import torch
import torch.nn.functional as F
from torch import nn

from iris_gym.nn.vqgan import SpatialAttention, Upsample, vqgan_decoder, vqgan_encoder


@pytest.mark.parametrize("downsamplings", [1, 3, 4])
@torch.no_grad()
def test_every_level_halves_the_side_and_the_decoder_undoes_it(downsamplings):
    side = 64 // 2**downsamplings
    outputs = vqgan_encoder(64, 32, downsamplings, 7, 5)(torch.rand(2, 3, 64, 64))
    assert outputs.shape == (2, 5, side, side)
    assert vqgan_decoder(64, 32, downsamplings, 7, 5)(outputs).shape == (2, 3, 64, 64)


def test_attention_stands_behind_every_residual_block_at_sides_16_and_8_and_in_the_middle():
    for network, blocks in ((vqgan_encoder(64, 32, 4, 7, 5), 2), (vqgan_decoder(64, 32, 4, 7, 5), 3)):
        attentive = [name for name, module in network.named_modules() if isinstance(module, SpatialAttention)]
        expected = [f"level{level}.attention{index}" for level in (2, 3) for index in range(blocks)]
        assert sorted(attentive) == sorted([*expected, "middle.attention1"])
        assert list(network.level2._modules) == [f"{k}{i}" for i in range(blocks) for k in ("residual", "attention")]


@torch.no_grad()
def test_attention_is_softmax_over_positions_with_scale():
    torch.manual_seed(0)
    attention, x = SpatialAttention(32), torch.randn(2, 32, 3, 2)
    query, key, value = attention.query_key_value(attention.norm(x)).flatten(2).chunk(3, dim=1)
    weights = F.softmax(query.transpose(1, 2) @ key / 32**0.5, dim=-1)  # (N, positions asking, positions answering)
    attended = torch.einsum("nqk,nck->ncq", weights, value).unflatten(2, (3, 2))
    torch.testing.assert_close(attention(x), x + attention.projection(attended))


@torch.no_grad()
def test_downsampling_pads_a_zero_row_below_and_a_zero_column_on_the_right():
    downsample = vqgan_encoder(64, 32, 1, 7, 5).downsample0
    nn.init.ones_(downsample.convolution.weight)
    nn.init.zeros_(downsample.convolution.bias)
    counts = downsample(torch.ones(1, 32, 4, 4))[0, 0] / 32
    assert counts.tolist() == [[9, 6], [6, 4]]


@torch.no_grad()
def test_upsampling_repeats_and_then_convolves():
    upsample = vqgan_decoder(64, 32, 1, 7, 5).upsample1
    nn.init.zeros_(upsample.convolution.weight)
    nn.init.zeros_(upsample.convolution.bias)
    upsample.convolution.weight[0, 0, 1, 1] = 1  # the identity, of one channel
    x = torch.arange(4.0).view(1, 1, 2, 2).expand(1, 32, 2, 2)
    assert upsample(x)[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_upsampling_at_once_is_upsampling_in_two_steps_and_so_is_its_gradient(layout):
    torch.manual_seed(0)
    upsample = Upsample(32).double().to(memory_format=layout)
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64, requires_grad=True)
    wanted, inputs = torch.randn(2, 32, 6, 10, dtype=torch.float64), (x, *upsample.parameters())
    at_once, in_two = upsample(x), upsample.convolution(F.interpolate(x, scale_factor=2.0))
    torch.testing.assert_close(at_once, in_two)
    for mine, theirs in zip(
        torch.autograd.grad(at_once, inputs, wanted), torch.autograd.grad(in_two, inputs, wanted), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_all_normalisations_have_32_groups_and_a_small_epsilon():
    for network in (vqgan_encoder(64, 64, 4, 7, 5), vqgan_decoder(64, 64, 4, 7, 5)):
        norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
        assert {(norm.num_groups, norm.eps) for norm in norms} == {(32, 1e-6)}


def test_every_parameter_learns():
    torch.manual_seed(0)
    encoder, decoder = vqgan_encoder(64, 32, 4, 7, 5), vqgan_decoder(64, 32, 4, 7, 5)
    (decoder(encoder(torch.rand(1, 3, 64, 64))) - torch.rand(1, 3, 64, 64)).square().mean().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name

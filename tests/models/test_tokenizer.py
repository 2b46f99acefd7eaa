import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from iris_gym.models.tokenizer import Tokenizer, foreground
from iris_gym.nn.convnet import strided_decoder, strided_encoder
from iris_gym.nn.perceptual import PerceptualDistance
from iris_gym.nn.quantizer import EMAQuantizer, GradientQuantizer
from iris_gym.nn.vqgan import vqgan_decoder, vqgan_encoder


class MeanOfPatches(nn.Module):
    """One channel: the mean of every 16×16 patch."""

    def forward(self, pixels):
        return F.avg_pool2d(pixels.mean(1, keepdim=True), 16)


class FlatPatches(nn.Module):
    """Three equal channels: every 16×16 patch in one colour."""

    def forward(self, codes):
        return F.interpolate(codes.expand(-1, 3, -1, -1), scale_factor=16)


def patch_tokenizer(*codes: float, commitment_weight: float = 0.25) -> Tokenizer:
    """A tokenizer that can be computed by hand: grey patches with these values on the [-1, 1] scale as codes."""
    quantizer = EMAQuantizer(len(codes), 1)
    quantizer.codebook.copy_(torch.tensor(codes)[:, None])
    quantizer.initialised.fill_(True)
    return Tokenizer(MeanOfPatches(), FlatPatches(), quantizer, commitment_weight=commitment_weight).eval()


def small_tokenizer(downsamplings: int = 4) -> Tokenizer:
    torch.manual_seed(0)
    encoder, decoder = strided_encoder(8, downsamplings, 6), strided_decoder(8, downsamplings, 6)
    return Tokenizer(encoder, decoder, EMAQuantizer(11, 6), commitment_weight=0.25)


@pytest.mark.parametrize("leading", [(2,), (2, 3), (1, 2, 3), (2, 0)])
@pytest.mark.parametrize(("downsamplings", "tokens"), [(3, 64), (4, 16), (5, 4)])
@torch.no_grad()
def test_encode_and_decode_keep_the_leading_axes(leading, downsamplings, tokens):
    tokenizer = small_tokenizer(downsamplings)
    encoded = tokenizer.encode(torch.rand(*leading, 3, 64, 64))
    assert encoded.shape == (*leading, tokens)
    assert encoded.dtype == torch.int64
    assert ((encoded >= 0) & (encoded < 11)).all()
    assert tokenizer.decode(encoded).shape == (*leading, 3, 64, 64)


def test_tokens_are_row_major():
    tokenizer = patch_tokenizer(*(value / 8 - 1 for value in range(16)))
    patches = (torch.arange(16.0) / 16).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    frame = F.interpolate(patches, scale_factor=16)
    assert tokenizer.encode(frame).tolist() == [list(range(16))]
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(frame)), frame)
    torch.testing.assert_close(tokenizer.reconstruct(frame), frame)


def test_encode_and_the_loss_agree_on_tokens():
    tokenizer, frames = small_tokenizer().eval(), torch.rand(3, 3, 64, 64)
    counts = tokenizer.loss(frames)[1]["token_counts"]
    assert torch.equal(counts, tokenizer.encode(frames).flatten().bincount(minlength=11).float())


def test_decoded_frames_are_clamped_but_the_loss_sees_what_lies_beyond():
    tokenizer = patch_tokenizer(-3.0, 3.0)
    decoded = tokenizer.decode(torch.tensor([[0] * 8 + [1] * 8]))
    assert decoded.unique().tolist() == [0, 1]
    # the output 1 becomes the code 3: an error of 2 in [-1, 1] and of 1 in [0, 1]
    metrics = tokenizer.loss(torch.ones(1, 3, 64, 64))[1]
    assert metrics["reconstruction_loss"].item() == pytest.approx(1.0)


def test_loss_of_a_hand_computed_frame():
    # Pixels 0.75 are 0.5 in [-1, 1] and take the code 1: squared errors 0.25 there, 0.0625 in [0, 1].
    tokenizer = patch_tokenizer(-1.0, 1.0, commitment_weight=0.5)
    loss, metrics = tokenizer.loss(torch.full((2, 3, 64, 64), 0.75))
    assert loss.item() == pytest.approx(0.25 + 0.5 * 0.25)
    assert metrics["loss"].item() == loss.item()
    assert metrics["reconstruction_loss"].item() == pytest.approx(0.0625)
    assert metrics["commitment_loss"].item() == pytest.approx(0.25)
    assert metrics["token_counts"].tolist() == [0, 32]
    assert not any(value.requires_grad for value in metrics.values())


def test_the_loss_trains_encoder_and_decoder():
    tokenizer = small_tokenizer()
    tokenizer.loss(torch.rand(2, 3, 64, 64))[0].backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_only_training_moves_the_codebook():
    tokenizer, frames = small_tokenizer(), torch.rand(2, 3, 64, 64)
    before = tokenizer.quantizer.codebook.clone()
    tokenizer.eval()
    tokenizer.loss(frames)
    tokenizer.reconstruct(frames)
    assert torch.equal(tokenizer.quantizer.codebook, before)
    tokenizer.train()
    tokenizer.encode(frames)
    assert torch.equal(tokenizer.quantizer.codebook, before)
    tokenizer.loss(frames)
    assert not torch.equal(tokenizer.quantizer.codebook, before)


def test_training_lowers_the_reconstruction_loss():
    tokenizer = small_tokenizer()
    frames = torch.rand(8, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 64, 64)
    optimizer = torch.optim.Adam(tokenizer.parameters(), 3e-3)
    history = []
    for _ in range(50):
        loss, metrics = tokenizer.loss(frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(metrics["reconstruction_loss"].item())
    assert history[-1] < 0.6 * history[0]


def test_foreground_weighs_what_differs_from_the_mean_frame_and_is_1_on_average():
    frames = torch.full((4, 3, 64, 64), 0.5)
    frames[0, :, 10, 20] = 0.9
    weights = foreground(frames)
    assert weights.shape == (4, 1, 64, 64)
    assert weights.mean().item() == pytest.approx(1.0)
    assert weights[0, 0, 10, 20].item() == pytest.approx(3 * weights[1, 0, 10, 20].item())
    assert weights[0, 0, 11, 20] == 0
    assert not foreground(torch.full((2, 3, 64, 64), 0.5)).any()


@torch.no_grad()
def test_the_foreground_term_adds_to_the_loss_and_not_to_the_reported_error():
    tokenizer = patch_tokenizer(-1.0, 1.0)
    frames = torch.zeros(2, 3, 64, 64)
    frames[0, :, :16, :16] = 0.5  # on the [-1, 1] scale 0, halfway between the two codes
    plain, metrics = tokenizer.loss(frames)
    tokenizer.foreground_weight = 2.0
    weighted, weighted_metrics = tokenizer.loss(frames)
    # The foreground is this patch of both frames, a sixteenth of all pixels; only the first frame is wrong there.
    error = F.mse_loss(2 * tokenizer.reconstruct(frames), 2 * frames)
    assert (weighted - plain).item() == pytest.approx(2.0 * 16 * error.item())
    assert weighted_metrics["reconstruction_loss"] == metrics["reconstruction_loss"]


def test_an_absolute_error_counts_in_the_loss_and_the_reported_one_stays_squared():
    tokenizer = patch_tokenizer(-1.0, 1.0, commitment_weight=0.0)
    tokenizer.pixel_error = torch.abs
    loss, metrics = tokenizer.loss(torch.full((2, 3, 64, 64), 0.75))
    assert loss.item() == metrics["pixel_loss"].item() == pytest.approx(0.5)
    assert metrics["reconstruction_loss"].item() == pytest.approx(0.0625)


def paper_like_tokenizer(**arguments) -> Tokenizer:
    torch.manual_seed(0)
    encoder, decoder = vqgan_encoder(64, 32, 4, 6, 5), vqgan_decoder(64, 32, 4, 6, 5)
    return Tokenizer(
        encoder, decoder, GradientQuantizer(11, 5), commitment_weight=1.0, pixel_error=torch.abs, **arguments
    )


def test_a_gradient_codebook_learns_by_a_term_of_its_own():
    tokenizer = paper_like_tokenizer()
    loss, metrics = tokenizer.loss(torch.rand(2, 3, 64, 64))
    expected = metrics["pixel_loss"] + metrics["commitment_loss"] + metrics["codebook_loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert tokenizer.quantizer.codebook.grad.any()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name


class Brightness(nn.Module):
    """A distance that can be computed by hand, in the place of LPIPS."""

    def forward(self, images, targets):
        assert images.shape == targets.shape
        assert targets.min() >= -1
        assert not self.training
        return (images - targets).mean((1, 2, 3), keepdim=True).square()


def test_the_perceptual_distance_is_asked_in_the_loss_alone_and_is_no_part_of_the_tokenizer():
    loads = []
    distance = PerceptualDistance(lambda: loads.append(None) or Brightness())
    tokenizer = paper_like_tokenizer(perceptual_distance=distance, perceptual_weight=3.0)
    frames = torch.rand(2, 3, 64, 64)
    tokenizer.reconstruct(frames)
    assert not loads
    tokenizer.train()
    weighted, metrics = tokenizer.loss(frames)
    assert len(loads) == 1
    tokenizer.perceptual_weight = 0.0
    plain, without = tokenizer.loss(frames)
    assert "perceptual_loss" not in without
    assert metrics["perceptual_loss"] > 0
    torch.testing.assert_close(weighted - plain, 3 * metrics["perceptual_loss"])
    assert not any("perceptual" in name for name in tokenizer.state_dict())
    assert not any(isinstance(module, Brightness) for module in tokenizer.modules())


@torch.no_grad()
def test_reconstructions_of_stored_tokens_are_those_computed_again():
    """What allows to encode and reconstruct a stored frame once, however often it is used while the tokenizer rests."""
    for tokenizer in (small_tokenizer().eval(), paper_like_tokenizer().eval()):
        frames = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        stored = torch.cat([tokenizer.encode(part) for part in frames.split([1, 2, 3])])
        assert torch.equal(stored, tokenizer.encode(frames))
        again = torch.stack([tokenizer.reconstruct(frames[[index]])[0] for index in range(6)])
        # Other batch sizes take other kernels; the difference is a fortieth of what a stored frame can tell.
        torch.testing.assert_close(tokenizer.decode(stored), again, rtol=0, atol=1e-4)


@pytest.mark.parametrize("quantizer", [EMAQuantizer, GradientQuantizer])
def test_the_loss_asks_for_no_values(quantizer):
    """Fake tensors have shapes alone; to ask one for its values raises, and on a GPU it would stall the host."""
    with FakeTensorMode():
        encoder, decoder = strided_encoder(8, 4, 6), strided_decoder(8, 4, 6)
        tokenizer = Tokenizer(encoder, decoder, quantizer(9, 6), foreground_weight=0.5).train()
        loss, metrics = tokenizer.loss(torch.zeros(2, 3, 64, 64))
        loss.backward()
    assert metrics["token_counts"].shape == (9,)

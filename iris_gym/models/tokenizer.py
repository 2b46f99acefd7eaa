"""The discrete autoencoder: frames to tokens and back (Micheli et al. 2023, section 2.1)."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from iris_gym.functional import count_tokens
from iris_gym.nn.perceptual import PerceptualDistance
from iris_gym.nn.quantizer import Quantizer
from iris_gym.types import FRAME_SHAPE

PixelError = Callable[[Tensor], Tensor]
"""Difference of reconstruction and frame, in [-1, 1], to an error of the same shape: `torch.square` or `torch.abs`."""


class Tokenizer(nn.Module):
    """An encoder, a codebook and a decoder.

    `encoder` maps (N, 3, 64, 64) to (N, D, g, g) and `decoder` maps back; both work on pixels in [-1, 1]. A frame
    becomes K = g² tokens in row-major order. Frames outside are float32 in [0, 1]. `perceptual_distance` is a
    yardstick and no part of this module; it is asked where its weight is not 0.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantizer: Quantizer,
        *,
        commitment_weight: float = 0.25,
        pixel_error: PixelError = torch.square,
        foreground_weight: float = 0.0,
        perceptual_distance: PerceptualDistance | None = None,
        perceptual_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.quantizer = quantizer
        self.commitment_weight = commitment_weight
        self.pixel_error = pixel_error
        self.foreground_weight = foreground_weight
        self.perceptual_distance = perceptual_distance
        self.perceptual_weight = perceptual_weight

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (..., 3, 64, 64) in [0, 1] to tokens (..., K) int64."""
        outputs, grid = self._encoder_outputs(frames.flatten(0, -4))
        return self.quantizer.nearest(outputs).view(*frames.shape[:-3], grid * grid)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (..., K) to frames (..., 3, 64, 64) in [0, 1]."""
        codes = self.quantizer.embed(tokens.flatten(0, -2))
        return self._decode_codes(codes).clamp(0, 1).view(*tokens.shape[:-1], *FRAME_SHAPE)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """What is left of frames (..., 3, 64, 64) after a passage through the codebook; what the actor sees."""
        return self.decode(self.encode(frames))

    def inference_copy(self, dtype: torch.dtype) -> "Tokenizer":
        """The same tokenizer with a codebook in common and convolutions of its own, in `dtype` and channels last.

        So they are fastest without gradient. Training on a CPU is not: there the normalisation's backward takes 30
        times as long with channels last in bf16, and in float32 nothing is gained.
        """
        encoder, decoder = (
            copy.deepcopy(network).to(dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            for network in (self.encoder, self.decoder)
        )
        return Tokenizer(encoder, decoder, self.quantizer)

    def loss(self, frames: Tensor, foreground_weights: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on frames (N, 3, 64, 64) in [0, 1], and metrics.

        The sum of the pixel error's mean in [-1, 1], the codebook's own loss, and the weighted commitment, perceptual
        distance, and pixel error once more, weighted by `foreground`. Among the metrics are the terms before their
        weights, `reconstruction_loss` as mean squared error on the [0, 1] scale, whatever the pixel error is, and
        `token_counts` (V,), how often each code was used. `foreground_weights` (N, 1, 64, 64) are given where the
        frames are part of a larger batch, from whose mean frame the foreground differs.
        """
        outputs, grid = self._encoder_outputs(frames)
        quantization = self.quantizer(outputs)
        reconstructions = self._decode_codes(quantization.codes.view(-1, grid * grid, outputs.shape[-1]))
        difference = 2 * (reconstructions - frames)
        terms = {
            "commitment_loss": (self.commitment_weight, quantization.commitment),
            "codebook_loss": (1.0, quantization.codebook_loss),
            **self._reconstruction_terms(reconstructions, frames, difference, foreground_weights),
        }
        loss = sum((weight * value for weight, value in terms.values()), start=frames.new_zeros(()))
        metrics = {name: value.detach() for name, (_, value) in terms.items()}
        metrics |= {
            "loss": loss.detach(),
            "reconstruction_loss": difference.detach().square().mean() / 4,
            "token_counts": count_tokens(quantization.tokens, self.quantizer.vocab_size),
        }
        return loss, metrics

    def _reconstruction_terms(
        self, reconstructions: Tensor, frames: Tensor, difference: Tensor, weights: Tensor | None
    ) -> dict[str, tuple[float, Tensor]]:
        """The terms that compare pictures, each with its weight; `difference` is in [-1, 1], the frames in [0, 1]."""
        error = self.pixel_error(difference)
        terms = {"pixel_loss": (1.0, error.mean())}
        if self.foreground_weight:
            weights = foreground(frames) if weights is None else weights
            terms["foreground_loss"] = (self.foreground_weight, (error * weights).mean())
        if self.perceptual_weight:
            assert self.perceptual_distance is not None
            distance = self.perceptual_distance(2 * reconstructions - 1, 2 * frames - 1)
            terms["perceptual_loss"] = (self.perceptual_weight, distance)
        return terms

    @torch.no_grad()
    def encoder_outputs(self, frames: Tensor) -> Tensor:
        """What the encoder makes of frames (N, 3, 64, 64) in [0, 1], before the codebook: (N · K, D)."""
        return self._encoder_outputs(frames)[0]

    def _encoder_outputs(self, frames: Tensor) -> tuple[Tensor, int]:
        """Frames (N, 3, 64, 64) to encoder outputs (N · K, D), row-major a frame, and the side g of the grid."""
        outputs = self.encoder((2 * frames - 1).to(_dtype(self.encoder)))
        return outputs.permute(0, 2, 3, 1).reshape(-1, outputs.shape[1]).float(), outputs.shape[-1]

    def _decode_codes(self, codes: Tensor) -> Tensor:
        """Codes (N, K, D) to unclamped frames (N, 3, 64, 64) on the [0, 1] scale."""
        count, tokens_per_frame, dim = codes.shape
        grid = int(tokens_per_frame**0.5)
        # A copy, as a view would lie channels last, and all maps that are made of it with it.
        maps = codes.transpose(1, 2).contiguous().view(count, dim, grid, grid).to(_dtype(self.decoder))
        return (self.decoder(maps).float() + 1) / 2


def _dtype(module: nn.Module) -> torch.dtype:
    """Of a module's weights; float32 without any."""
    return next((parameter.dtype for parameter in module.parameters()), torch.float32)


def foreground(frames: Tensor) -> Tensor:
    """How far each pixel of frames (N, 3, 64, 64) is from the batch's mean frame: (N, 1, 64, 64), 1 on average."""
    distance = (frames - frames.mean(0)).abs().amax(1, keepdim=True)
    return distance / distance.mean().clamp_min(1e-6)

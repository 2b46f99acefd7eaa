"""The discrete autoencoder: frames to tokens and back (Micheli et al. 2023, section 2.1)."""

import torch
from torch import Tensor, nn

from iris_gym.nn.quantizer import EMAQuantizer
from iris_gym.types import FRAME_SHAPE


class Tokenizer(nn.Module):
    """An encoder, a codebook and a decoder.

    `encoder` maps (N, 3, 64, 64) to (N, D, g, g) and `decoder` maps back; both work on pixels in [-1, 1]. A frame
    becomes K = g² tokens in row-major order. Frames outside are float32 in [0, 1].
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        quantizer: EMAQuantizer,
        *,
        commitment_weight: float = 0.25,
        foreground_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.quantizer = quantizer
        self.commitment_weight = commitment_weight
        self.foreground_weight = foreground_weight

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

    def loss(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss on frames (N, 3, 64, 64) in [0, 1]: squared error in [-1, 1] plus the weighted commitment.

        With a `foreground_weight` the squared error counts a second time, weighted by `foreground`. The codebook has
        no term: it follows by moving averages. Also returns metrics: `reconstruction_loss` as mean squared error on
        the [0, 1] scale, `commitment_loss`, and `token_counts` (V,), how often each code was used.
        """
        outputs, grid = self._encoder_outputs(frames)
        quantization = self.quantizer(outputs)
        reconstructions = self._decode_codes(quantization.codes.view(-1, grid * grid, outputs.shape[-1]))
        squared_error = (2 * reconstructions - 2 * frames).square()
        loss = squared_error.mean() + self.commitment_weight * quantization.commitment
        if self.foreground_weight:
            loss = loss + self.foreground_weight * (squared_error * foreground(frames)).mean()
        metrics = {
            "loss": loss.detach(),
            "reconstruction_loss": squared_error.detach().mean() / 4,
            "commitment_loss": quantization.commitment.detach(),
            "token_counts": torch.bincount(quantization.tokens, minlength=self.quantizer.vocab_size).float(),
        }
        return loss, metrics

    def _encoder_outputs(self, frames: Tensor) -> tuple[Tensor, int]:
        """Frames (N, 3, 64, 64) to encoder outputs (N · K, D), row-major a frame, and the side g of the grid."""
        outputs = self.encoder(2 * frames - 1)
        return outputs.permute(0, 2, 3, 1).reshape(-1, outputs.shape[1]), outputs.shape[-1]

    def _decode_codes(self, codes: Tensor) -> Tensor:
        """Codes (N, K, D) to unclamped frames (N, 3, 64, 64) on the [0, 1] scale."""
        count, tokens_per_frame, dim = codes.shape
        grid = int(tokens_per_frame**0.5)
        return (self.decoder(codes.transpose(1, 2).reshape(count, dim, grid, grid)) + 1) / 2


def foreground(frames: Tensor) -> Tensor:
    """How far each pixel of frames (N, 3, 64, 64) is from the batch's mean frame: (N, 1, 64, 64), 1 on average."""
    distance = (frames - frames.mean(0)).abs().amax(1, keepdim=True)
    return distance / distance.mean().clamp_min(1e-6)

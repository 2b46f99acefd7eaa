"""Vector quantisation: codebooks that follow the encoder by moving averages, or by gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_gym.accelerate import products
from iris_gym.functional import count_tokens


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a quantizer makes of encoder outputs (M, D)."""

    tokens: Tensor  # (M,) int64, the nearest codes
    codes: Tensor  # (M, D), the codes; their gradient goes straight through to the encoder outputs
    commitment: Tensor  # scalar, mean squared distance of the encoder outputs to their (fixed) codes
    codebook_loss: Tensor  # scalar, the same for codes and (fixed) outputs; 0 where no gradient moves the codes


class Quantizer(nn.Module):
    """A codebook of V vectors, of which the nearest stands for an encoder output."""

    codebook: Tensor  # (V, D) float32

    @property
    def vocab_size(self) -> int:
        return self.codebook.shape[0]

    def forward(self, outputs: Tensor) -> Quantization:
        """Quantize encoder outputs (M, D)."""
        raise NotImplementedError

    @contextmanager
    def batch_in_parts(self, outputs: Callable[[], Tensor]) -> Iterator[None]:
        """Within it, the calls in training mode are parts of one batch, whose `outputs` (M, D) are computed on demand.

        What is learned from the outputs besides gradients is learned from all of them together.
        """
        yield

    def nearest(self, outputs: Tensor) -> Tensor:
        """The tokens (M,) of the codes nearest to `outputs` (M, D) by squared distance.

        Always in float32: lower precision cannot tell near codes apart, and another token is another frame.
        """
        with products(tf32=False), torch.autocast(outputs.device.type, enabled=False):
            outputs, codebook = outputs.float(), self.codebook.float()
            return (codebook.square().sum(1) - 2 * outputs @ codebook.T).argmin(1)

    def embed(self, tokens: Tensor) -> Tensor:
        """The codes (..., D) of `tokens` (...)."""
        return F.embedding(tokens, self.codebook)


class GradientQuantizer(Quantizer):
    """A codebook that the optimizer moves (van den Oord et al. 2017, equation 3; Micheli et al. 2023, appendix A)."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.empty(vocab_size, dim).uniform_(-1 / vocab_size, 1 / vocab_size))

    def forward(self, outputs: Tensor) -> Quantization:
        """Quantize encoder outputs (M, D); in training and in evaluation alike."""
        tokens = self.nearest(outputs.detach())
        codes = self.embed(tokens)
        return Quantization(
            tokens,
            codes=outputs + (codes - outputs).detach(),
            commitment=F.mse_loss(outputs, codes.detach()),
            codebook_loss=F.mse_loss(codes, outputs.detach()),
        )


class EMAQuantizer(Quantizer):
    """A codebook of `vocab_size` vectors, moved by averages and not by gradient.

    The codebook starts from encoder outputs of the first training batch. In training every call updates running
    counts and sums of the outputs assigned to each code, with Laplace smoothing (van den Oord et al. 2017,
    appendix A.1), and a code that no output chose for `dead_code_threshold` updates in a row is put on a random
    output of the current batch. With a threshold of 0 it is not, and smoothing moves it to the origin.
    """

    counts: Tensor  # (V,) running number of outputs a batch that chose the code
    sums: Tensor  # (V, D) running sum of these outputs
    idle_updates: Tensor  # (V,) int64, updates since the code was last chosen
    initialised: Tensor  # () bool

    def __init__(self, vocab_size: int, dim: int, *, decay: float = 0.99, dead_code_threshold: int = 100) -> None:
        super().__init__()
        self.decay = decay
        self.dead_code_threshold = dead_code_threshold
        self.register_buffer("codebook", torch.randn(vocab_size, dim))
        self.register_buffer("counts", torch.ones(vocab_size))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("idle_updates", torch.zeros(vocab_size, dtype=torch.int64))
        self.register_buffer("initialised", torch.tensor(False))
        self._in_parts = False

    @contextmanager
    def batch_in_parts(self, outputs: Callable[[], Tensor]) -> Iterator[None]:
        whole = outputs()
        self._start_from(whole)
        tokens = self.nearest(whole)
        self._in_parts = True
        try:
            yield
            self._follow(whole, tokens)
        finally:
            self._in_parts = False

    def forward(self, outputs: Tensor) -> Quantization:
        """Quantize encoder outputs (M, D), and learn from them in training mode."""
        learns = self.training and not self._in_parts
        if learns:
            self._start_from(outputs.detach())
        tokens = self.nearest(outputs)
        codes = self.embed(tokens)
        if learns:
            self._follow(outputs.detach(), tokens)
        return Quantization(
            tokens,
            codes=outputs + (codes - outputs).detach(),
            commitment=F.mse_loss(outputs, codes.detach()),
            codebook_loss=outputs.new_zeros(()),
        )

    @torch.no_grad()
    def _start_from(self, outputs: Tensor) -> None:
        """Put every code on an output of the first batch; afterwards, nothing. No branch that waits for the device."""
        first = ~self.initialised
        self.codebook.copy_(torch.where(first, self._random_outputs(outputs), self.codebook))
        self.sums.copy_(torch.where(first, self.codebook, self.sums))
        self.initialised.fill_(True)

    @torch.no_grad()
    def _follow(self, outputs: Tensor, tokens: Tensor) -> None:
        outputs = outputs.float()
        counts = count_tokens(tokens, self.vocab_size)
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, outputs)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.idle_updates.copy_(torch.where(counts > 0, 0, self.idle_updates + 1))
        if self.dead_code_threshold:
            self._revive(outputs)
        self.codebook.copy_(self.sums / self._smoothed_counts()[:, None])

    def _smoothed_counts(self, epsilon: float = 1e-5) -> Tensor:
        total = self.counts.sum()
        return (self.counts + epsilon) / (total + self.vocab_size * epsilon) * total

    def _revive(self, outputs: Tensor) -> None:
        """Codes unused for too long start anew on random outputs, with the weight of one output a batch."""
        dead = self.idle_updates >= self.dead_code_threshold
        self.counts.masked_fill_(dead, 1.0)
        self.sums.copy_(torch.where(dead[:, None], self._random_outputs(outputs), self.sums))
        self.idle_updates.masked_fill_(dead, 0)

    def _random_outputs(self, outputs: Tensor) -> Tensor:
        rows = torch.randint(outputs.shape[0], (self.vocab_size,), device=outputs.device)
        return outputs[rows].float()

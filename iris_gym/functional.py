"""Pure functions on tensors: returns, losses, sampling."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def unit_frames(frames: Tensor) -> Tensor:
    """Stored frames (..., 3, 64, 64) uint8 as float32 in [0, 1], as modules exchange them."""
    return frames.float() / 255


def on_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy of an array on the device; from pinned memory, so that nobody waits for a GPU to have caught up."""
    tensor = torch.from_numpy(values.copy())
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def stored_frames(frames: Tensor) -> Tensor:
    """The inverse of `unit_frames`: [0, 1] to uint8, rounded."""
    return (frames * 255).round().to(torch.uint8)


def sample_categorical(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    exponentials: Tensor | None = None,
) -> Tensor:
    """Draw one class per row of `logits` (..., C); returns int64 (...).

    The class with the largest p / Exp(1) is a draw from p (the exponential form of the Gumbel-max trick). It needs no
    check of the probabilities, so nothing waits for the device. A `temperature` of 0 takes the likeliest class. Who
    wants each row drawn from a random stream of its own gives the Exp(1) as `exponentials` (..., C) float32.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = F.softmax(logits.float() / temperature, dim=-1)
    if exponentials is None:
        exponentials = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / exponentials).argmax(-1)


def lambda_returns(rewards: Tensor, values: Tensor, ends: Tensor, *, discount: float, lambda_: float) -> Tensor:
    """λ-returns of the steps of a trajectory (Micheli et al. 2023, equation 5).

    All arguments are (B, H), `ends` bool; so is the result. With γ the discount, V the values and T the last step:

        G_T = V_T,    G_t = r_t + γ (1 - end_t) [(1 - λ) V_{t+1} + λ G_{t+1}].

    `rewards` and `ends` of the last step are not read.
    """
    returns = torch.empty_like(values)
    returns[:, -1] = values[:, -1]
    discounts = discount * (~ends).to(values.dtype)
    for t in reversed(range(values.shape[1] - 1)):
        following = (1 - lambda_) * values[:, t + 1] + lambda_ * returns[:, t + 1]
        returns[:, t] = rewards[:, t] + discounts[:, t] * following
    return returns


def before_end(ends: Tensor) -> Tensor:
    """True for the steps up to the first end, that one included, and False for those behind it; (B, H) bool."""
    return ends.cumsum(1) - ends.long() == 0


def summed_rewards(rewards: Tensor, ends: Tensor) -> Tensor:
    """The rewards (B, T) up to the first of the `ends` (B, T) bool, that step's included, added up: (B,)."""
    return (rewards * before_end(ends)).sum(-1)


def masked_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the targets whose `mask` is True; 0 where there is none.

    `logits` (..., C), `targets` (...) int64, `mask` (...) bool. The mask becomes a class index to ignore rather than
    an index set, whose size the host would have to wait for.
    """
    ignored = targets.masked_fill(~mask, -100)
    total = F.cross_entropy(logits.flatten(0, -2).float(), ignored.flatten(), ignore_index=-100, reduction="sum")
    return total / mask.sum().clamp_min(1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is True; both (...). 0 where it is nowhere."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def count_tokens(tokens: Tensor, vocab_size: int, mask: Tensor | None = None) -> Tensor:
    """How often each of `vocab_size` tokens is among `tokens` (...), where `mask` (...) is True: (V,) float32.

    `torch.bincount` would wait for the device to learn the largest of them.
    """
    weights = torch.ones_like(tokens, dtype=torch.float32) if mask is None else mask.float()
    counts = torch.zeros(vocab_size, device=tokens.device)
    return counts.index_add_(0, tokens.flatten(), weights.flatten())


def codebook_usage(token_counts: Tensor) -> tuple[Tensor, Tensor]:
    """Perplexity of the code distribution and number of codes used, from counts (V,) of each code."""
    probabilities = token_counts / token_counts.sum()
    entropy = -torch.xlogy(probabilities, probabilities).sum()
    return entropy.exp(), (token_counts > 0).sum()


def slices(batch: int, parts: int) -> list[slice]:
    """`batch` rows in so many parts of nearly the same size, or in parts of one row where there are fewer rows."""
    parts = min(parts, batch)
    bounds = [round(batch * part / parts) for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]

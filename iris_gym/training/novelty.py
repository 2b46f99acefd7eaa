"""An exploration bonus in dreams for frames that were seldom seen, by counting tokens."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from iris_gym.accelerate import version
from iris_gym.data.replay import Replay
from iris_gym.functional import before_end
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.losses import Imagination
from iris_gym.types import Trajectory

MOST_ROWS = 10_000
"""Of the replay that are counted. Of a larger one so many are drawn, that an epoch does not take longer the more was
collected."""

ROWS_AT_ONCE = 256
"""Whose frames are fetched to be counted."""


class Novelty:
    """Count-based exploration with a frame's tokens as its hash code (Bellemare et al. 2016; Tang et al. 2017).

    A frame met n times in the replay has the novelty 1 / √n. One that was never met may be where nobody has been yet,
    or made up by a poor world model: with `unseen_is_novel` its novelty is 1, else it is neither novel nor common.
    Otherwise than there the mean is subtracted, so that a common frame costs what a rare one gains, and long dreams are
    worth no more than short ones; ends, whose frames nobody sees, lie at the mean.

    Counts are of the current tokenizer, which gives the same tokens to what looks alike, and made anew when it has
    learned or the replay has grown.
    """

    def __init__(
        self, frame_cache: FrameCache, replay: Replay, weight: float, *, unseen_is_novel: bool = False
    ) -> None:
        self.frame_cache = frame_cache
        self.replay = replay
        self.weight = weight
        self.unseen_is_novel = unseen_is_novel
        self._counted: tuple[int, int] | None = None  # the versions of tokenizer and replay

    def bonus(self, trajectory: Trajectory) -> Tensor:
        """For each step `weight` times the novelty of the frame that it led to, less the mean: (B, H) float32.

        Zero, and not in the mean, for a step to an end or behind one, for the last, and without `unseen_is_novel` for
        one to a frame that was never met.
        """
        counts, ends = self.counts(trajectory.tokens[:, 1:]), trajectory.ends[:, :-1]
        judged = before_end(ends) & ~ends
        if not self.unseen_is_novel:
            judged = judged & (counts > 0)
        novelty = torch.rsqrt(counts.clamp(min=1))
        mean = (novelty * judged).sum() / judged.sum().clamp(min=1)
        bonus = torch.zeros_like(trajectory.rewards)
        bonus[:, :-1] = self.weight * judged * (novelty - mean)
        return bonus

    def counts(self, tokens: Tensor) -> Tensor:
        """How often frames (…, K) int64 are in the replay: (…) float32.

        Of a large replay it is an estimate. Of frames met once most are not found in it, and count as never met.
        """
        self._count()
        hashes = hashed(tokens)
        places = torch.searchsorted(self._hashes, hashes).clamp(max=len(self._hashes) - 1)
        return torch.where(self._hashes[places] == hashes, self._counts[places], 0.0)

    def _count(self) -> None:
        """Count unless nothing has changed; what was encoded for the other components is not encoded again."""
        stored = len(self.replay)
        current = version(self.frame_cache.original), stored
        if current == self._counted:
            return
        counted = min(stored, MOST_ROWS)
        rows = np.arange(stored)
        if counted < stored:  # drawn: at even distances it may be always the same one of several environments
            rows = np.sort(np.random.default_rng(stored).choice(stored, counted, replace=False))
        pieces = np.split(rows, range(ROWS_AT_ONCE, counted, ROWS_AT_ONCE))
        tokens = (self.frame_cache.tokens(self.replay.single_steps(piece))[:, 0] for piece in pieces)
        self._hashes, counts = torch.unique(torch.cat([hashed(some) for some in tokens]), return_counts=True)
        self._counts = counts * (stored / counted)
        self._counted = current


def hashed(tokens: Tensor) -> Tensor:
    """64 bits for each frame (…, K) int64, in every run the same: (…) int64."""
    return (tokens * _factors(tokens.shape[-1], tokens.device)).sum(-1)  # modulo 2⁶⁴


@cache
def _factors(count: int, device: torch.device) -> Tensor:
    """Odd numbers, drawn once and for all."""
    drawn = torch.randint(-(2**62), 2**62, (count,), generator=torch.Generator().manual_seed(0), device="cpu")
    return (drawn * 2 + 1).to(device)


def with_novelty(imagination: Imagination, novelty: Novelty) -> Imagination:
    """The same imagination, whose trajectories have a bonus."""

    def novel(tokens: Tensor, frame: Tensor, hidden: Tensor, cell: Tensor) -> Trajectory:
        trajectory = imagination(tokens, frame, hidden, cell)
        return replace(trajectory, bonus=novelty.bonus(trajectory))

    return novel

"""A bonus in dreams for frames that were seldom seen, by counting tokens."""

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from iris_gym.accelerate import version
from iris_gym.data.replay import Replay
from iris_gym.functional import before_end
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.losses import Imagination
from iris_gym.types import Trajectory

ROWS_AT_ONCE = 256
"""Of the replay, whose frames are fetched to be counted."""


class Novelty:
    """Count-based exploration (Bellemare et al. 2016) with the frame's tokens as its hash code (Tang et al. 2017).

    A frame met n times in the replay has the novelty 1 / √n. One that was never met is not called novel: it may be
    there to be found, but more often the dream has made it up. Counts are of the current tokenizer, which gives the
    same tokens to what looks alike, and made anew when it has learned or the replay has grown. `replay` may be None
    where `bonus` is never asked for.
    """

    def __init__(self, frame_cache: FrameCache, replay: Replay | None, weight: float) -> None:
        self.frame_cache = frame_cache
        self.replay = replay
        self.weight = weight
        self._counted: tuple[int, int] | None = None  # the versions of tokenizer and replay

    def bonus(self, trajectory: Trajectory) -> Tensor:
        """For each step `weight` times the novelty of the frame that it led to: (B, H) float32, the last one zero.

        Less its mean: going on is worth nothing in itself. It is zero, and does not count in the mean, for a step to a
        frame that was never met, to an end or behind one.
        """
        counts, ends = self.counts(trajectory.tokens[:, 1:]), trajectory.ends[:, :-1]
        known = before_end(ends) & ~ends & (counts > 0)
        novelty = torch.rsqrt(counts.clamp(min=1).float())
        mean = (novelty * known).sum() / known.sum().clamp(min=1)
        bonus = torch.zeros_like(trajectory.rewards)
        bonus[:, :-1] = self.weight * known * (novelty - mean)
        return bonus

    def counts(self, tokens: Tensor) -> Tensor:
        """How often frames (…, K) int64 are in the replay: (…) int64."""
        self._count()
        hashes = hashed(tokens)
        places = torch.searchsorted(self._hashes, hashes).clamp(max=len(self._hashes) - 1)
        return torch.where(self._hashes[places] == hashes, self._counts[places], 0)

    def _count(self) -> None:
        """Count unless nothing has changed; what was encoded for the other components is not encoded again."""
        assert self.replay is not None, "without a replay nothing is learned"
        current = version(self.frame_cache.original), len(self.replay)
        if current == self._counted:
            return
        hashes = []
        for row in range(0, len(self.replay), ROWS_AT_ONCE):
            segment = self.replay.steps(row, min(row + ROWS_AT_ONCE, len(self.replay)))
            hashes.append(hashed(self.frame_cache.tokens(segment)[:, 0]))
        self._hashes, self._counts = torch.unique(torch.cat(hashes), return_counts=True)
        self._counted = current


def hashed(tokens: Tensor) -> Tensor:
    """64 bits for each frame (…, K) int64, in every run the same: (…) int64."""
    return (tokens * _factors(tokens.shape[-1], tokens.device)).sum(-1)  # modulo 2⁶⁴


@cache
def _factors(count: int, device: torch.device) -> Tensor:
    """Odd numbers, drawn once and for all."""
    source = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (count,), generator=source) * 2 + 1).to(device)


def with_novelty(imagination: Imagination, novelty: Novelty) -> Imagination:
    """The same imagination, whose trajectories have a bonus."""

    def novel(tokens: Tensor, frame: Tensor, hidden: Tensor, cell: Tensor) -> Trajectory:
        trajectory = imagination(tokens, frame, hidden, cell)
        return replace(trajectory, bonus=novelty.bonus(trajectory))

    return novel

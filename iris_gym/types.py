"""The small types that travel between the floors.

Letters in shapes: B rows of a batch, L timesteps of a segment, H timesteps of an imagined rollout, K tokens a frame.
Frames are uint8 where they are stored and float32 in [0, 1] between modules.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

FRAME_SIZE = 64
FRAME_SHAPE = (3, FRAME_SIZE, FRAME_SIZE)
"""A frame: RGB, channels first, 64×64 (Micheli et al. 2023, appendix A)."""

RecurrentState = tuple[Tensor, Tensor]
"""(hidden, cell) of the actor-critic's LSTM, each (B, lstm_dim) float32."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive real transitions, padded on one side where an episode is shorter."""

    frames: Tensor  # (B, L, 3, 64, 64) uint8; zeros where padded
    actions: Tensor  # (B, L) int64
    rewards: Tensor  # (B, L) float32
    ends: Tensor  # (B, L) bool; True where the episode terminated. Truncation is no end.
    mask: Tensor  # (B, L) bool; False where padded
    rows: NDArray[np.int64] | None = None  # (B, L) on the host; -1 where padded; None: not from a replay

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, to be written to a file."""
        return {name: getattr(self, name) for name in ("frames", "actions", "rewards", "ends", "mask")}

    def steps(self, steps: slice) -> "Segment":
        """Some of the L steps."""
        return _part(self, (slice(None), steps))

    def take(self, batch: slice) -> "Segment":
        """Some of the B rows of the batch."""
        return _part(self, batch)


@dataclass(frozen=True, slots=True)
class DreamStep:
    """What the world model answers to one action."""

    frame: Tensor  # (B, 3, 64, 64) float32 in [0, 1]
    reward: Tensor  # (B,) float32, one of -1, 0, 1
    end: Tensor  # (B,) bool
    tokens: Tensor  # (B, K) int64, of the frame


@dataclass(frozen=True, slots=True)
class Trajectory:
    """An imagined rollout, or what was lived told as one. Its last step only bootstraps: no loss reads action, reward
    and end there, in dreams zeros."""

    frames: Tensor  # (B, H, 3, 64, 64) float32 in [0, 1], what the actor saw
    actions: Tensor  # (B, H) int64
    rewards: Tensor  # (B, H) float32
    ends: Tensor  # (B, H) bool
    tokens: Tensor  # (B, H, K) int64, of the frames
    log_probabilities: Tensor  # (B, H) float32, of the actions, by the actor that learns from them, as it was before
    bonus: Tensor | None = None  # (B, H) float32, what returns have beside the rewards; None: nothing
    real: Tensor | None = None  # (B,) bool, which rows were lived and not dreamt; None: none

    def take(self, batch: slice) -> "Trajectory":
        """Some of the B rows of the batch."""
        return _part(self, batch)


Batched = TypeVar("Batched", Segment, Trajectory)


def _part(data: Batched, index: slice | tuple[slice, slice]) -> Batched:
    """The same with that part of each column, where there is one."""
    columns: dict[str, Any] = {field.name: getattr(data, field.name) for field in fields(data)}
    return replace(data, **{name: column[index] for name, column in columns.items() if column is not None})

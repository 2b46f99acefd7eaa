"""An episode: which rows of the replay it is made of, and how it ended."""

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True, eq=False)
class Episode:
    """Consecutive transitions of one environment, as row numbers of the replay.

    The rows rise, but not by one where several environments are collected in turn. An episode that is neither
    terminated nor truncated is open: it still grows, and is sampled from like any other.
    """

    terminated: bool = False
    truncated: bool = False
    total: float = 0.0  # of its rewards
    lowest: float = 0.0  # of its rewards and 0
    _rows: array = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def open(self) -> bool:
        return not (self.terminated or self.truncated)

    @property
    def flattered(self) -> bool:
        """Whether it may owe its `total` to a cut: what would have followed can have been worse."""
        return self.truncated and not self.terminated and self.lowest < 0

    @property
    def first_row(self) -> int:
        return self._rows[0]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of every step, (len(self),) int64, a copy."""
        return np.array(self._rows, dtype=np.int64)

    def append(self, row: int) -> None:
        """Add the next step, in amortised O(1)."""
        self._rows.append(row)

    def step_of(self, row: int) -> int:
        """Which step of the episode the replay's `row`, one of its own, is."""
        return bisect_left(self._rows, row)

    def window(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows (L,) int64 and mask (L,) bool of the steps `start` to `stop - 1`, L = `stop - start`.

        Step 0 is the first of the episode. `start` may lie before it and `stop` past the end: the mask is False at
        the steps that do not exist, and their row is that of the nearest step that does. It is a valid row, so one
        gather serves the whole window. The episode has at least one step.
        """
        steps = np.arange(start, stop)
        nearest = np.minimum(np.maximum(steps, 0), len(self) - 1)
        # The view must not outlive this line: an array that lends its memory cannot grow.
        return np.frombuffer(self._rows, dtype=np.int64)[nearest], steps == nearest

"""The replay's frames once more, where they are learned from."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_gym.functional import on_device
from iris_gym.types import FRAME_SHAPE

UPLOAD_ROWS = 2048
"""Rows that go over at a time, 25 MB, and the least that the tensor grows by."""

HEADROOM = 2
"""How many times the bytes of a longer tensor have to be free: the shorter one lies beside it while it is copied."""


class DeviceFrames:
    """A mirror of rows that are only ever added, (rows, 3, 64, 64) uint8 on a device: batches are gathered there.

    A row goes over when the first batch after it is drawn, and never again.
    """

    def __init__(self, device: torch.device) -> None:
        self._frames = torch.empty(0, *FRAME_SHAPE, dtype=torch.uint8, device=device)
        self._rows = 0

    def follow(self, frames: NDArray[np.uint8], rows: int) -> bool:
        """Take over what is new among the first `rows` of `frames`; False, and nothing done, where it does not fit."""
        if rows > len(self._frames) and not self._grow(rows):
            return False
        for start in range(self._rows, rows, UPLOAD_ROWS):
            stop = min(start + UPLOAD_ROWS, rows)
            self._frames[start:stop] = on_device(frames[start:stop], self._frames.device)
        self._rows = rows
        return True

    def gather(self, rows: NDArray[np.int64], mask: NDArray[np.bool_]) -> Tensor:
        """The frames (B, L, 3, 64, 64) of `rows` (B, L), zero where `mask` (B, L) is False."""
        device = self._frames.device
        frames = self._frames.index_select(0, on_device(rows.reshape(-1), device))
        padded = on_device(~mask.reshape(-1), device)
        return frames.masked_fill_(padded[:, None, None, None], 0).view(*rows.shape, *FRAME_SHAPE)

    def _grow(self, rows: int) -> bool:
        """Make room for `rows`, and for a quarter more than there was, so that growing stays cheap."""
        capacity = max(rows, len(self._frames) * 5 // 4, UPLOAD_ROWS)
        if HEADROOM * capacity * math.prod(FRAME_SHAPE) > free_bytes(self._frames.device):
            return False
        try:
            grown = self._frames.new_empty(capacity, *FRAME_SHAPE)
        except torch.OutOfMemoryError:  # what torch keeps may be in pieces, or a recorded graph's
            return False
        grown[: self._rows] = self._frames[: self._rows]
        self._frames = grown
        return True


def free_bytes(device: torch.device) -> float:
    """What a GPU has left, and what torch keeps of it without using it; of other devices nothing is known."""
    if device.type != "cuda":
        return math.inf
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept

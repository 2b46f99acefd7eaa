"""What the tokenizer makes of stored frames, computed once."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_gym.accelerate import FrozenCopy, version
from iris_gym.functional import on_device, stored_frames, unit_frames
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.types import Segment

CPU_BATCH = 16
"""Frames that a CPU computes at once. Its kernels round differently in batches of different sizes. In batches of one
size a frame's value depends neither on its place nor on the frames beside it, so a resumed run, which asks for the
frames in another order, finds what the run before it had found."""

GPU_BATCH = 256
"""Frames that a GPU computes at most at once: after an update of the autoencoder 1,000 and more may be new."""


class FrameCache:
    """Tokens and reconstructions of the replay's frames, for as long as the tokenizer stays as it is.

    The world model and the actor-critic learn while the tokenizer is frozen, so each frame is encoded and decoded at
    most once between two of its updates, when it is first asked for; only what fills up a batch is computed again.
    Reconstructions are kept as uint8, as the frames themselves are. Segments that are not from a replay are computed
    anew each time. `frozen` is what to compute with instead of the tokenizer itself, whose copy it holds. Without
    `keep` everything is computed anew each time.
    """

    def __init__(self, tokenizer: Tokenizer, frozen: FrozenCopy | None = None, *, keep: bool = True) -> None:
        self.original = tokenizer
        self.frozen = frozen
        self.keep = keep
        self.tokenizer = cast(Tokenizer, frozen.copy) if frozen else tokenizer
        self._tokens, self._pictures = _Column(), _Column()
        self._version = -1

    @torch.no_grad()
    def tokens(self, segment: Segment) -> Tensor:
        """The tokens (B, L, K) int64 of a segment; of any frame where it is padded."""

        def encode(places: Tensor) -> Tensor:
            return self.tokenizer.encode(unit_frames(segment.frames.flatten(0, 1)[places]))

        self._forget_what_is_stale()
        with _as_it_is(segment):
            return _values(self._tokens, segment, encode)

    @torch.no_grad()
    def reconstructions(self, segment: Segment) -> Tensor:
        """The reconstructions (B, L, 3, 64, 64) in [0, 1], rounded to 256 levels; of any frame where it is padded."""
        tokens = self.tokens(segment)

        def decode(places: Tensor) -> Tensor:
            return stored_frames(self.tokenizer.decode(tokens.flatten(0, 1)[places]))

        with _as_it_is(segment):
            return unit_frames(_values(self._pictures, segment, decode))

    def _forget_what_is_stale(self) -> None:
        """Whatever wrote to the tokenizer, its outputs are stale."""
        current = version(self.original)
        if current != self._version or not self.keep:
            self._tokens.forget()
            self._pictures.forget()
        if current != self._version:
            self._version = current
            if self.frozen:
                self.frozen.refresh()


def _as_it_is(segment: Segment) -> torch.autocast:
    """In the tokenizer's own dtype, whoever asks: a GPU's autocast would normalise in another."""
    return torch.autocast(segment.frames.device.type, enabled=False)


class _Column:
    """A value for some rows of a replay, on the device, and on the host which of them are known, and where they lie.

    There is room for as many as were ever known at once, not for all rows.
    """

    def __init__(self) -> None:
        self._places = np.zeros(0, dtype=np.int64)  # of each row's value; -1: not known
        self._count = 0
        self._values: Tensor | None = None  # (room, …)

    def forget(self) -> None:
        self._places[:] = -1
        self._count = 0

    def look_up(self, rows: NDArray[np.int64], compute: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
        """The values (B, L, …) of `rows` (B, L), any where a row is -1.

        `compute` gives those that are new, of places (M,) int64 among the B · L. Nothing is asked of the device.
        """
        distinct, places = np.unique(rows, return_index=True)
        self._cover(int(distinct.max(initial=0)) + 1)  # even where all is padded
        new = (distinct >= 0) & (self._places[distinct] < 0)
        if new.any() or self._values is None:
            values = _compute_in_batches(compute, places[new], device)
            self._store(distinct[new], values)
        assert self._values is not None
        return self._values[on_device(self._places[rows.clip(0)].clip(0), device)]

    def _cover(self, rows: int) -> None:
        """Know of `rows`, and of a quarter more than before, so that growing stays cheap."""
        if rows > len(self._places):
            more = max(rows, len(self._places) * 5 // 4) - len(self._places)
            self._places = np.concatenate((self._places, np.full(more, -1)))

    def _store(self, rows: NDArray[np.int64], values: Tensor) -> None:
        count = self._count + len(rows)
        if self._values is None or len(self._values) < count:
            # Zeros, for a padded place looks up some value, known or not, and what it finds has to be a token.
            room = max(count, self._count * 5 // 4, 1)
            grown = values.new_zeros(room, *values.shape[1:])
            if self._values is not None:
                grown[: len(self._values)] = self._values
            self._values = grown
        self._values[self._count : count] = values
        self._places[rows] = np.arange(self._count, count)
        self._count = count


def _values(column: _Column, segment: Segment, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """What `compute` makes of the places of a segment, out of the column where this knows them: (B, L, …)."""
    device = segment.frames.device
    if segment.rows is not None:
        return column.look_up(segment.rows, compute, device)
    places = np.arange(segment.mask.numel())
    return _compute_in_batches(compute, places, device).unflatten(0, segment.mask.shape)


def _compute_in_batches(compute: Callable[[Tensor], Tensor], places: NDArray[np.int64], device: torch.device) -> Tensor:
    """The values of `places` (M,), filled up with places again to whole batches of `CPU_BATCH`.

    A GPU, which computes several of these at once, looks for kernels for every size that it meets. Of no places it is
    asked, too: what it then gives has the right dtype and shape.
    """
    size = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    filled = np.resize(places, -(-len(places) // CPU_BATCH) * CPU_BATCH)
    batches = [filled[first : first + size] for first in range(0, max(len(filled), 1), size)]
    return torch.cat([compute(on_device(batch, device)) for batch in batches])[: len(places)]

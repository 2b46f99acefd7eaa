"""The replay: every real transition, append-only, in memory-mapped files.

A folder holds three files. A row is one transition.

    frames.bin    uint8 (rows, 3, 64, 64): what the environment showed
    steps.bin     `STEP` (rows,): what the agent did there and what came of it
    replay.json   the format version, and how many rows counted at the last flush

100,000 frames are 1.23 GB. The operating system keeps in memory the pages in use and drops them where memory is short,
and a flush writes those that changed.
"""

import json
import math
import os
import shutil
import stat
import sys
import tempfile
import warnings
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from iris_gym.data.device_frames import DeviceFrames
from iris_gym.data.episode import Episode
from iris_gym.errors import UsageError
from iris_gym.functional import on_device
from iris_gym.types import FRAME_SHAPE, Segment
from iris_gym.untrusted.documents import parse_json, read_document, shown

FORMAT_VERSION = 1

MAX_ROWS = 200_000_000
"""Twice as many as the longest run that a config can ask for."""

STEP = np.dtype([("action", "<i8"), ("reward", "<f4"), ("environment", "<i4"), ("terminated", "?"), ("truncated", "?")])
ROW_BYTES = {"frames.bin": math.prod(FRAME_SHAPE), "steps.bin": STEP.itemsize}


class Replay:
    """Transitions of one or several environments, in episodes.

    Rows are only ever added, and count from the next `flush`. A folder reopened after a crash is what it was at the
    last flush: later rows are ignored and overwritten, and the episodes that were open then are open again. Whoever
    reopens it with environments that start anew calls `truncate_open` first.

    Args:
        folder: where the files lie; reopened if there is a replay in it. None: a temporary folder, removed when the
            replay is closed, collected, or the program ends.
        rows: reopen no more than so many, as many as a checkpoint knows of. None: all that count.
        open_environments: whose last episodes were open at those rows, though `truncate_open` has closed them since.
        device: where sampled segments go.
        chunk_rows: how many rows the files grow by; the default is 25 MB.
        mirror: keep a copy of the frames on the device and gather there, for as long as its memory has room; otherwise
            each batch is gathered on the host and sent. None: on a GPU.
        uniform: what is drawn uniformly for a batch: an episode, and then a step of it; or a step of all.

    Raises:
        UsageError: the folder holds a replay of another format version, or an incomplete one.
        OSError: the disk has no room for another chunk, or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        rows: int | None = None,
        open_environments: Sequence[int] = (),
        device: torch.device | str = "cpu",
        chunk_rows: int = 2048,
        mirror: bool | None = None,
        uniform: Literal["episodes", "steps"] = "episodes",
    ) -> None:
        self._remove: weakref.finalize | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="iris_gym_replay_")) if folder is None else Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if folder is None:
            self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._device = torch.device(device)
        mirrored = self._device.type == "cuda" if mirror is None else mirror
        self._mirror = DeviceFrames(self._device) if mirrored else None
        self._chunk_rows = chunk_rows
        self._uniform = uniform
        self._episodes: list[Episode] = []
        self._episode_of_row: list[Episode] = []
        self._rewarded = array("q")  # the rows with a reward
        self._open: dict[int, Episode] = {}
        self._rows = 0
        counted = self._capacity = _counted_rows(self._folder, rows)
        self._grow()
        self._reopen(counted, open_environments)
        self._rebuild_episodes(counted)

    def __len__(self) -> int:
        """How many rows there are, flushed or not."""
        return self._rows

    @property
    def episodes(self) -> Sequence[Episode]:
        """All episodes, the open ones too, in the order in which they began."""
        return self._episodes

    @property
    def open_environments(self) -> list[int]:
        """The environments with an open episode."""
        return sorted(self._open)

    def transitions(
        self, start: int, stop: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
        """Frames (M, 3, 64, 64), actions, rewards and environments (M,) of the rows `start` to `stop - 1`."""
        steps = self._steps[start:stop]
        return self._frames[start:stop], steps["action"], steps["reward"], steps["environment"]

    def single_steps(self, rows: NDArray[np.int64]) -> Segment:
        """The `rows` (M,) as M segments of one step each."""
        return self._gather(rows[:, None], np.ones((len(rows), 1), np.bool_))

    def latest_outcomes(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Rewards, `terminated` and `truncated` (count,) of the newest rows, of which there have to be so many."""
        steps = self._steps[self._rows - count : self._rows]
        return steps["reward"], steps["terminated"], steps["truncated"]

    def append(
        self,
        frame: NDArray[np.uint8],
        action: int,
        reward: float,
        terminated: bool,
        truncated: bool,
        environment: int = 0,
    ) -> None:
        """Add a transition to the open episode of `environment`, or begin one; close it at an end.

        A step may be both terminated and truncated. It is kept as both, and the world model sees an end.

        Args:
            frame: (3, 64, 64) uint8, what the agent saw before `action`.
            action: index of the action.
            reward: what it brought, unclipped.
            terminated: the episode ended here for the agent, a lost life included.
            truncated: it was cut here from outside.
            environment: the row of the vectorised environment.

        Raises:
            UsageError: the frame has another shape or dtype. Nothing is added.
            OSError: the disk is full. Nothing is added.
        """
        if frame.shape != FRAME_SHAPE or frame.dtype != np.uint8:
            raise UsageError(f"frame is {frame.dtype} {frame.shape}; the replay takes uint8 {FRAME_SHAPE}")
        if self._rows == self._capacity:
            self._grow()
        self._frames[self._rows] = frame
        self._steps[self._rows] = (action, reward, environment, terminated, truncated)
        self._count_row(environment, reward, terminated, truncated)

    def truncate_open(self, environment: int | None = None) -> None:
        """Close the open episode of `environment`, or of all, as truncated: the environment was reset or exchanged.

        Nothing happens where none is open. The mark is on disk on return, and holds where its row was flushed.
        """
        for key in list(self._open) if environment is None else [environment]:
            episode = self._open.pop(key, None)
            if episode is not None:
                episode.truncated = True
                self._steps["truncated"][episode.rows[-1]] = True
        self._steps.flush()

    def open_episode_frames(self, environment: int, length: int) -> NDArray[np.uint8]:
        """The last frames of the open episode of `environment`, to burn in the LSTM: (<= length, 3, 64, 64) uint8.

        None of them where no episode is open.
        """
        if environment not in self._open:
            return np.empty((0, *FRAME_SHAPE), np.uint8)
        rows = self._open[environment].rows
        return self._frames[rows[max(0, len(rows) - length) :]]

    def sample_segments(
        self,
        batch_size: int,
        length: int,
        *,
        generator: np.random.Generator,
        align: Literal["start", "end"],
        before_rewards: float = 0.0,
        lead: int = 1,
    ) -> Segment:
        """Draw B = `batch_size` segments of L = `length` steps, each around a step drawn as `uniform` says.

        With `align="start"` a segment starts at that step and is padded on the right (tokenizer and world model); with
        `align="end"` it ends at that step and is padded on the left (burn-in and imagination).

        The share `before_rewards` of the segments is drawn around other steps, as far as there are rewards: uniformly
        one that brought a reward, and of the `lead` steps of its episode up to it uniformly one.

        Raises:
            UsageError: the replay is empty.
        """
        if not self._episodes:
            raise UsageError("the replay is empty; collect at least one step before sampling from it")
        episodes, steps = self._draw(batch_size, generator)
        if before_rewards and self._rewarded:
            others = int(generator.binomial(batch_size, before_rewards))
            episodes[:others], steps[:others] = self._draw_before_rewards(others, lead, generator)
        starts = steps if align == "start" else steps + 1 - length
        return self._windows(episodes, starts, length)

    def _windows(self, episodes: Sequence[Episode], starts: NDArray[np.int64], length: int) -> Segment:
        """Of each of `episodes` the `length` steps from one of `starts` on."""
        windows = [episode.window(start, start + length) for episode, start in zip(episodes, starts, strict=True)]
        rows, masks = zip(*windows, strict=True)
        return self._gather(np.stack(rows), np.stack(masks))

    def _draw(self, count: int, generator: np.random.Generator) -> tuple[list[Episode], NDArray[np.int64]]:
        """Steps, each as its episode and which step of it, drawn as `uniform` says."""
        if self._uniform == "steps":
            return self._steps_of(generator.integers(self._rows, size=count))
        episodes = [self._episodes[index] for index in generator.integers(len(self._episodes), size=count)]
        return episodes, generator.integers([len(episode) for episode in episodes])

    def _draw_before_rewards(
        self, count: int, lead: int, generator: np.random.Generator
    ) -> tuple[list[Episode], NDArray[np.int64]]:
        """The same, from the `lead` steps up to each reward."""
        drawn = generator.integers(len(self._rewarded), size=count)
        # The view must not outlive this line: an array that lends its memory cannot grow.
        episodes, rewarded = self._steps_of(np.frombuffer(self._rewarded, np.int64)[drawn])
        return episodes, generator.integers(np.maximum(rewarded + 1 - lead, 0), rewarded + 1)

    def _steps_of(self, rows: NDArray[np.int64]) -> tuple[list[Episode], NDArray[np.int64]]:
        """The episode of each of `rows`, and which step of it the row is."""
        episodes = [self._episode_of_row[row] for row in rows]
        steps = [episode.step_of(row) for episode, row in zip(episodes, rows, strict=True)]
        return episodes, np.array(steps, np.int64)

    def sample_best(
        self,
        batch_size: int,
        before: int,
        length: int,
        *,
        share: float,
        since: int,
        generator: np.random.Generator,
    ) -> Segment | None:
        """Draw B = `batch_size` segments of the best episodes: `before` steps, then `length` from a step on.

        That step is drawn uniformly from the `share` of the closed episodes with the largest sums of rewards, one at
        least, the newer of equal ones. Only episodes that began at row `since` or later count, and of those that were
        cut only the ones without a negative reward: others may have the larger sum for being cut. Segments are padded
        on both sides. None where no episode is better than another.
        """
        known = [
            episode
            for episode in reversed(self._episodes)
            if not (episode.open or episode.flattered) and episode.first_row >= since
        ]
        if len({episode.total for episode in known}) < 2:
            return None
        known.sort(key=lambda episode: -episode.total)  # stable
        best = np.concatenate([episode.rows for episode in known[: math.ceil(share * len(known))]])
        episodes, steps = self._steps_of(generator.choice(best, batch_size))
        return self._windows(episodes, steps - before, before + length)

    def check_steps(self, num_actions: int, num_environments: int) -> None:
        """Raise `UsageError` for the first row that these environments cannot have given: the files may be anybody's.

        Of bools every byte but 0 and 1 is refused.
        """
        steps = self._steps[: self._rows]
        bools = np.stack([steps["terminated"], steps["truncated"]]).view(np.uint8)
        wrong = {
            f"action is not in 0 to {num_actions - 1}": (steps["action"] < 0) | (steps["action"] >= num_actions),
            f"environment is not in 0 to {num_environments - 1}": (steps["environment"] < 0)
            | (steps["environment"] >= num_environments),
            "reward is not finite": ~np.isfinite(steps["reward"]),
            "terminated or truncated is neither 0 nor 1": (bools > 1).any(axis=0),
        }
        for words, rows in wrong.items():
            if rows.any():
                raise UsageError(f"replay {self._folder}: in row {int(rows.argmax())} the {words}")

    def flush(self) -> None:
        """Write to disk what is new, then count it. The count changes at once or not at all."""
        self._frames.flush()
        self._steps.flush()
        _write_atomically(self._folder / "replay.json", json.dumps({"version": FORMAT_VERSION, "rows": self._rows}))

    def close(self) -> None:
        """Let go of the files; remove a temporary folder. Nothing else may follow.

        This counts no rows: the owner flushes when it saves, and a replay closed by an exception agrees with that save.
        """
        for name in ("_frames", "_steps"):
            vars(self).pop(name, None)
        self._mirror = None
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grow(self) -> None:
        """Make room for another chunk of rows, in both files or in neither."""
        capacity = self._capacity + self._chunk_rows
        for name, row_bytes in ROW_BYTES.items():
            _reserve(self._folder / name, self._capacity * row_bytes, self._chunk_rows * row_bytes)
        self._frames = np.memmap(self._folder / "frames.bin", np.uint8, "r+", shape=(capacity, *FRAME_SHAPE))
        self._steps = np.memmap(self._folder / "steps.bin", STEP, "r+", shape=(capacity,))
        self._capacity = capacity

    def _reopen(self, rows: int, environments: Sequence[int]) -> None:
        for environment in environments:
            found = np.flatnonzero(self._steps["environment"][:rows] == environment)
            if not len(found):
                raise UsageError(f"replay {self._folder}: environment {environment} has an open episode, but no row")
            last = int(found[-1])
            self._steps["truncated"][last] = False

    def _rebuild_episodes(self, rows: int) -> None:
        columns = (self._steps[name][:rows].tolist() for name in ("environment", "reward", "terminated", "truncated"))
        for row in zip(*columns, strict=True):
            self._count_row(*row)

    def _count_row(self, environment: int, reward: float, terminated: bool, truncated: bool) -> None:
        """Give the next row, already written, to its episode."""
        if environment not in self._open:
            self._open[environment] = Episode()
            self._episodes.append(self._open[environment])
        episode, reward = self._open[environment], float(np.float32(reward))  # as it is stored
        episode.append(self._rows)
        episode.total += reward
        episode.lowest = min(episode.lowest, reward)
        self._episode_of_row.append(episode)
        if reward:
            self._rewarded.append(self._rows)
        episode.terminated, episode.truncated = bool(terminated), bool(truncated)
        if not episode.open:
            del self._open[environment]
        self._rows += 1

    def _gather(self, rows: NDArray[np.int64], mask: NDArray[np.bool_]) -> Segment:
        """The transitions of `rows` (B, L), zero where `mask` (B, L) is False, on the device."""
        steps = self._steps[rows]
        steps[~mask] = np.zeros((), STEP)
        return Segment(
            frames=self._gather_frames(rows, mask),
            actions=on_device(steps["action"], self._device),
            rewards=on_device(steps["reward"], self._device),
            ends=on_device(steps["terminated"], self._device),
            mask=on_device(mask, self._device),
            rows=np.where(mask, rows, -1),
        )

    def _gather_frames(self, rows: NDArray[np.int64], mask: NDArray[np.bool_]) -> torch.Tensor:
        """(B, L, 3, 64, 64), from the mirror or from the file."""
        if self._mirror is not None and not self._mirror.follow(self._frames, self._rows):
            self._mirror = None
            warnings.warn(
                f"{self._device} has no room for the replay's frames; they are sent batch by batch", stacklevel=4
            )
        if self._mirror is not None:
            return self._mirror.gather(rows, mask)
        # The frames are copied once, from the file into memory from which a GPU can fetch them by itself.
        frames = torch.empty((*rows.shape, *FRAME_SHAPE), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        # "clip" lets `take` write to `out` without a buffer of its own. The rows are in range.
        np.take(self._frames, rows, axis=0, out=frames.numpy(), mode="clip")
        frames.numpy()[~mask] = 0
        return frames.to(self._device, non_blocking=True)


def _counted_rows(folder: Path, wanted: int | None) -> int:
    """The number of rows to reopen; 0 for a new folder. The header and the files are checked for them."""
    path = folder / "replay.json"
    counted = _read_header(path) if path.exists() else 0
    rows = counted if wanted is None else wanted
    if rows > counted:
        raise UsageError(f"replay {folder}: {counted} rows were saved, {rows} are asked for; copy it again whole")
    for name, row_bytes in ROW_BYTES.items():
        size = _size(folder / name)
        if size < rows * row_bytes:
            raise UsageError(f"replay {folder}: {name} has {size} bytes, too few for {rows} rows; copy it again whole")
    return rows


def _size(path: Path) -> int:
    """Bytes of a file, 0 where there is none. It is written to later, so it must not be a link to somewhere else."""
    if not os.path.lexists(path):
        return 0
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(f"replay {path.parent}: {path.name} is no regular file; copy it again whole")
    return path.stat().st_size


def _read_header(path: Path) -> int:
    try:
        header = parse_json(read_document(path, f"replay {path.parent}: replay.json"))
        version = header["version"]
        rows = header["rows"] if version == FORMAT_VERSION else 0
        if type(rows) is not int or not 0 <= rows <= MAX_ROWS:
            raise ValueError(f"rows={shown(rows)}")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"replay {path.parent}: replay.json is damaged; use another folder") from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"replay {path.parent}: format version {shown(version)}; this release reads {FORMAT_VERSION}, "
            "use another folder"
        )
    return rows


def _reserve(path: Path, start: int, length: int) -> None:
    """Have the disk set `length` bytes from byte `start` of a file aside for it.

    A memory map writes when the system pleases. Were the disk full then, the process would be killed by SIGBUS; here
    it is an OSError, before anything is written. Setting a longer size alone would reserve nothing.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        if sys.platform == "linux":
            try:
                os.posix_fallocate(file.fileno(), start, length)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
        else:
            file.seek(start)
            file.write(bytes(length))


def _write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old or the new content, whatever happens in between."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

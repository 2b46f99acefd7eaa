import errno
import gc
import json
import os
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from iris_gym.data import device_frames
from iris_gym.data.device_frames import DeviceFrames
from iris_gym.data.replay import STEP, Replay
from iris_gym.errors import UsageError
from iris_gym.types import FRAME_SHAPE, Segment

FRAME_BYTES = 3 * 64 * 64


def make_frame(number: int) -> NDArray[np.uint8]:
    """A frame that differs from every other, and from zero, in its every channel."""
    frame = np.full(FRAME_SHAPE, 1 + number % 255, np.uint8)
    frame[:, 0, 0] = number // 255
    return frame


def fill(replay: Replay, *lengths: int, environment: int = 0) -> None:
    """Add terminated episodes of these lengths; the action is the row number, the reward half of it."""
    for length in lengths:
        for step in range(length):
            row = len(replay)
            replay.append(make_frame(row), row, row / 2, step == length - 1, False, environment)


def rows_of(replay: Replay) -> list[list[int]]:
    return [episode.rows.tolist() for episode in replay.episodes]


def sample(replay: Replay, batch_size: int, length: int, align: Literal["start", "end"], seed: int = 0) -> Segment:
    return replay.sample_segments(batch_size, length, generator=np.random.default_rng(seed), align=align)


@pytest.fixture
def replay():
    with Replay(None, chunk_rows=16) as replay:
        yield replay


def test_single_steps_are_the_rows_that_were_asked_for(replay: Replay):
    fill(replay, 3, 2)
    segment = replay.single_steps(np.array([4, 1]))
    assert segment.frames.shape == (2, 1, *FRAME_SHAPE) and segment.mask.all()
    assert segment.actions.tolist() == [[4], [1]] and segment.rewards.tolist() == [[2.0], [0.5]]
    assert segment.ends.tolist() == [[True], [False]]
    assert np.array_equal(segment.frames[0, 0].numpy(), make_frame(4))
    assert segment.rows is not None and segment.rows.tolist() == [[4], [1]]


# Adding


def test_episodes_end_where_terminated_or_truncated(replay: Replay):
    for row, (terminated, truncated) in enumerate([(False, False), (True, False), (False, True), (True, True)]):
        replay.append(make_frame(row), 0, 0.0, terminated, truncated)
    replay.append(make_frame(4), 0, 0.0, False, False)
    assert len(replay) == 5
    assert len(replay.episodes) == 4
    assert rows_of(replay) == [[0, 1], [2], [3], [4]]
    assert [episode.terminated for episode in replay.episodes] == [True, False, True, False]
    assert [episode.truncated for episode in replay.episodes] == [False, True, True, False]
    assert [episode.open for episode in replay.episodes] == [False, False, False, True]


def test_interleaved_environments_have_episodes_of_their_own(replay: Replay):
    for row, (environment, terminated) in enumerate([(0, 0), (1, 0), (0, 0), (1, 1), (1, 0), (0, 1), (7, 0)]):
        replay.append(make_frame(row), row, 0.0, bool(terminated), False, environment)
    assert rows_of(replay) == [[0, 2, 5], [1, 3], [4], [6]]
    segment = sample(replay, 200, 3, "end")
    seen = {tuple(actions) for actions in segment.actions.tolist()}
    assert {(0, 2, 5), (0, 1, 3), (0, 0, 4), (0, 0, 6)} <= seen


@pytest.mark.parametrize(
    "frame",
    [np.zeros((64, 64, 3), np.uint8), np.zeros(FRAME_SHAPE, np.float32), np.zeros((1, *FRAME_SHAPE), np.uint8)],
)
def test_refuses_frames_of_another_shape_or_type(replay: Replay, frame: NDArray):
    with pytest.raises(UsageError, match="frame is .*; the replay takes uint8"):
        replay.append(frame, 0, 0.0, False, False)
    assert len(replay) == 0 and len(replay.episodes) == 0


def test_grows_over_several_chunks(tmp_path: Path):
    with Replay(tmp_path, chunk_rows=3) as replay:
        fill(replay, 10)
        assert (tmp_path / "frames.bin").stat().st_size == 12 * FRAME_BYTES
        segment = sample(replay, 1, 19, "end")
        actions = segment.actions[segment.mask].tolist()
        assert actions == list(range(len(actions)))
        np.testing.assert_array_equal(segment.frames[segment.mask], [make_frame(action) for action in actions])
        assert replay.open_episode_frames(0, 5).shape == (0, *FRAME_SHAPE)
        replay.append(make_frame(10), 0, 0.0, False, False)
        np.testing.assert_array_equal(replay.open_episode_frames(0, 5), make_frame(10)[None])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems reserve by writing")
@pytest.mark.parametrize("failing", ["frames.bin", "steps.bin"])
def test_a_full_disk_is_an_error_and_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    reserve = os.posix_fallocate

    def refuse(descriptor: int, start: int, length: int) -> None:
        if os.path.samestat(os.fstat(descriptor), (tmp_path / failing).stat()):
            raise OSError(errno.ENOSPC, "No space left on device")
        reserve(descriptor, start, length)

    with Replay(tmp_path, chunk_rows=2) as replay:
        fill(replay, 2)
        with monkeypatch.context() as full_disk, pytest.raises(OSError, match="No space left"):
            full_disk.setattr(os, "posix_fallocate", refuse)
            fill(replay, 1)
        assert len(replay) == 2 and rows_of(replay) == [[0, 1]]
        fill(replay, 2)
        replay.flush()
    with Replay(tmp_path, chunk_rows=2) as replay:
        assert rows_of(replay) == [[0, 1], [2, 3]]


# Open episodes


def test_truncate_open_closes_one_or_all(replay: Replay):
    for row in range(6):
        replay.append(make_frame(row), 0, 0.0, False, False, environment=row % 3)
    replay.truncate_open(1)
    assert [episode.truncated for episode in replay.episodes] == [False, True, False]
    replay.truncate_open(1)
    replay.truncate_open(99)
    replay.truncate_open()
    assert [episode.truncated for episode in replay.episodes] == [True, True, True]
    assert not any(episode.terminated for episode in replay.episodes)
    replay.append(make_frame(6), 0, 0.0, False, False, environment=1)
    assert rows_of(replay) == [[0, 3], [1, 4], [2, 5], [6]]


def test_truncate_open_is_durable_without_another_flush(tmp_path: Path):
    with Replay(tmp_path, chunk_rows=4) as replay:
        replay.append(make_frame(0), 0, 0.0, False, False)
        replay.flush()
        replay.truncate_open()
    with Replay(tmp_path, chunk_rows=4) as replay:
        assert replay.episodes[0].truncated and not replay.episodes[0].terminated


def test_open_episode_frames_are_the_tail_of_that_environment(replay: Replay):
    for row in range(8):
        replay.append(make_frame(row), 0, 0.0, False, False, environment=row % 2)
    np.testing.assert_array_equal(replay.open_episode_frames(1, 2), [make_frame(5), make_frame(7)])
    np.testing.assert_array_equal(replay.open_episode_frames(0, 20), [make_frame(row) for row in (0, 2, 4, 6)])
    assert replay.open_episode_frames(0, 0).shape == (0, *FRAME_SHAPE)
    assert replay.open_episode_frames(2, 3).shape == (0, *FRAME_SHAPE)
    replay.append(make_frame(8), 0, 0.0, True, False, environment=0)
    frames = replay.open_episode_frames(0, 3)
    assert frames.shape == (0, *FRAME_SHAPE) and frames.dtype == np.uint8


# Sampling


def test_segments_have_the_shapes_and_types_of_the_contract(replay: Replay):
    fill(replay, 5, 2)
    segment = sample(replay, 4, 3, "start")
    assert segment.frames.shape == (4, 3, *FRAME_SHAPE) and segment.frames.dtype == torch.uint8
    for values, dtype in (
        (segment.actions, torch.int64),
        (segment.rewards, torch.float32),
        (segment.ends, torch.bool),
        (segment.mask, torch.bool),
    ):
        assert values.shape == (4, 3) and values.dtype == dtype


@pytest.mark.parametrize("align", ["start", "end"])
def test_segments_are_padded_with_zeros_on_the_right_side(replay: Replay, align: Literal["start", "end"]):
    replay.append(make_frame(0), 9, -1.0, True, False)  # so that row 0 belongs to another episode
    for step in range(3):
        replay.append(make_frame(step + 1), step + 1, 1.0, step == 2, False)
    segment = sample(replay, 100, 4, align)
    for frames, actions, rewards, ends, mask in zip(
        segment.frames, segment.actions, segment.rewards, segment.ends, segment.mask, strict=True
    ):
        valid = int(mask.sum())
        assert mask.tolist() == ([True] * valid + [False] * (4 - valid))[:: 1 if align == "start" else -1]
        assert not frames[~mask].any() and not actions[~mask].any() and not rewards[~mask].any()
        kept = actions[mask].tolist()
        if kept != [9]:
            last = 3 if align == "start" else kept[-1]
            assert kept == list(range(last - valid + 1, last + 1))
            np.testing.assert_array_equal(frames[mask], [make_frame(action) for action in kept])
            assert (rewards[mask] == 1).all()
        assert ends.tolist() == [bool(m) and int(action) in (3, 9) for m, action in zip(mask, actions, strict=True)]


def test_truncation_is_no_end(replay: Replay):
    replay.append(make_frame(0), 0, 0.0, False, True)
    replay.append(make_frame(1), 1, 0.0, True, True)
    replay.append(make_frame(2), 2, 0.0, False, False)
    segment = sample(replay, 100, 1, "start")
    assert segment.actions.unique().tolist() == [0, 1, 2]
    assert torch.equal(segment.ends, segment.actions == 1)


@pytest.mark.parametrize("align", ["start", "end"])
def test_episodes_and_their_steps_are_uniform(replay: Replay, align: Literal["start", "end"]):
    """Two episodes, of 1 and 4 steps: 1/2 of the draws for the one, 1/8 for each step of the other."""
    fill(replay, 1)
    for row in range(1, 5):  # an open episode counts like any other
        replay.append(make_frame(row), row, 0.0, False, False)
    segment = sample(replay, 8_000, 1, align)
    counts = torch.bincount(segment.actions[:, 0], minlength=5).numpy()
    expected = np.array([4_000, 1_000, 1_000, 1_000, 1_000])
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 18.5  # 4 degrees of freedom, p = 0.001


@pytest.mark.parametrize("align", ["start", "end"])
def test_steps_are_uniform_where_that_is_wanted(align: Literal["start", "end"]):
    with Replay(None, chunk_rows=16, uniform="steps") as replay:
        fill(replay, 1, 2, 5)
        for row in range(4):  # two more episodes, in turn
            replay.append(make_frame(8 + row), 8 + row, 0.0, False, False, row % 2)
        segment = sample(replay, 12_000, 2, align)
        drawn = segment.actions[:, 0 if align == "start" else 1]
        counts = np.bincount(drawn.numpy(), minlength=12)
        assert counts.min() > 850 and counts.max() < 1150  # 1,000 each, with a deviation of 30
        following = {int(a): int(b) for a, b in segment.actions[segment.mask.all(1)].tolist()}
        assert following == {1: 2, 3: 4, 4: 5, 5: 6, 6: 7, 8: 10, 9: 11}


def with_rewards(folder: Path, *rewards: float) -> Replay:
    """Two episodes in turn, each of every second row."""
    replay = Replay(folder, chunk_rows=16, uniform="steps")
    for row, reward in enumerate(rewards):
        replay.append(make_frame(row), row, reward, False, False, row % 2)
    replay.flush()
    return replay


def drawn_before_rewards(replay: Replay, share: float, **settings) -> NDArray[np.int64]:
    """How often each row is among 12,000."""
    settings = dict(align="end", before_rewards=share, lead=3) | settings
    segment = replay.sample_segments(12_000, 2, generator=np.random.default_rng(0), **settings)
    return np.bincount(segment.actions[:, 0 if settings["align"] == "start" else 1].numpy(), minlength=len(replay))


@pytest.mark.parametrize("align", ["start", "end"])
def test_a_share_of_the_steps_is_drawn_before_rewards(align: Literal["start", "end"], tmp_path):
    """Rewards of either sign, each with the two steps before it in its own episode, as far as there are so many."""
    with with_rewards(tmp_path, 0, 0, 1, 0, 0, 0, 0, 0, 0, -0.5) as replay:
        counts = drawn_before_rewards(replay, 1.0, align=align)
        expected = [3_000, 0, 3_000, 0, 0, 2_000, 0, 2_000, 0, 2_000]
        assert np.abs(counts - expected).max() < 200 and not counts[np.array(expected) == 0].any()
        half = drawn_before_rewards(replay, 0.5, align=align)
        assert np.abs(half - (np.array(expected) / 2 + 600)).max() < 200
    with Replay(tmp_path, chunk_rows=16, uniform="steps") as reopened:
        assert drawn_before_rewards(reopened, 1.0, align=align).tolist() == counts.tolist()


def test_without_rewards_there_is_nothing_before_them(tmp_path):
    with with_rewards(tmp_path, 0, 0, 0, 0) as replay:
        assert drawn_before_rewards(replay, 1.0).tolist() == drawn_before_rewards(replay, 0.0).tolist()
        replay.append(make_frame(4), 4, 1.0, True, False)
        assert drawn_before_rewards(replay, 1.0, lead=1).tolist() == [0, 0, 0, 0, 12_000]


def add_episodes(replay: Replay, *totals: float) -> None:
    """One of three steps for each total, which its last step brings; the action is the row number."""
    for total in totals:
        for step in range(3):
            last = step == 2
            replay.append(make_frame(len(replay)), len(replay), last * total, last and total != 7, last)


def best(replay: Replay, share: float, since: int = 0, before: int = 0, length: int = 1) -> Segment | None:
    draws = np.random.default_rng(0)
    return replay.sample_best(200, before, length, share=share, since=since, generator=draws)


@pytest.mark.parametrize(
    ("share", "since", "rows"),
    [
        (0.2, 0, [6, 7, 8]),
        (0.21, 0, [6, 7, 8, 12, 13, 14]),  # of two equal ones the newer, and a part of an episode is one
        (0.1, 7, [12, 13, 14]),
        (1.0, 4, [6, 7, 8, 9, 10, 11, 12, 13, 14]),
    ],
)
def test_the_best_episodes_are_those_with_the_largest_sums(replay: Replay, share: float, since: int, rows: list[int]):
    add_episodes(replay, 2.0, 0.0, 7.0, -1.0, 2.0)
    replay.append(make_frame(15), 15, 100.0, False, False)  # still open
    segment = best(replay, share, since)
    assert segment is not None and sorted(set(segment.actions.flatten().tolist())) == rows
    counts = np.bincount(segment.actions.flatten())[rows]
    assert counts.min() > 0.4 * counts.mean(), "each step as often as another"


def test_stretches_of_the_best_episodes_are_padded_on_both_sides(replay: Replay):
    add_episodes(replay, 0.0, 1.0)
    segment = best(replay, 0.5, before=2, length=3)
    assert segment is not None and segment.frames.shape == (200, 5, *FRAME_SHAPE)
    stretches = {tuple(row) for row in np.where(segment.mask, segment.actions, -1).tolist()}
    assert stretches == {(-1, -1, 3, 4, 5), (-1, 3, 4, 5, -1), (3, 4, 5, -1, -1)}
    assert torch.equal(segment.mask, segment.frames.flatten(2).any(-1))


def test_where_no_episode_is_better_than_another_none_is_best(replay: Replay):
    assert best(replay, 1.0) is None
    add_episodes(replay, 1.0, 0.0, 0.0)
    assert best(replay, 0.1, since=3) is None and best(replay, 0.1) is not None


def test_the_best_episodes_of_a_reopened_replay_are_the_same(tmp_path: Path):
    with Replay(tmp_path) as replay:
        add_episodes(replay, 0.3)
        for row, reward in enumerate((0.1, 0.2, 0.0)):  # in float64 more than 0.3, as stored as much
            replay.append(make_frame(row), 3 + row, reward, row == 2, False)
        add_episodes(replay, 0.0, 0.3)
        expected = best(replay, 0.5)
        replay.flush()
    with Replay(tmp_path) as reopened:
        again = best(reopened, 0.5)
    assert expected is not None and again is not None and torch.equal(expected.actions, again.actions)


def test_the_seed_decides(replay: Replay):
    fill(replay, 20, 20)
    first, again, other = (sample(replay, 16, 2, "start", seed).actions for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_an_empty_replay_cannot_be_sampled(replay: Replay):
    with pytest.raises(UsageError, match="the replay is empty"):
        sample(replay, 1, 1, "start")


def test_segments_are_copies(replay: Replay):
    fill(replay, 1)
    segment = sample(replay, 1, 1, "start")
    for values in (segment.frames, segment.actions, segment.rewards, segment.ends):
        values.zero_()
    again = sample(replay, 1, 1, "start")
    np.testing.assert_array_equal(again.frames[0, 0], make_frame(0))
    assert again.ends.all()


def test_sampling_and_adding_hold_no_more_than_the_batch():
    with Replay(None, chunk_rows=256) as replay:
        tracemalloc.start()
        fill(replay, 1_000)
        replay.flush()
        sample(replay, 8, 4, "start")
        replay.open_episode_frames(0, 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100 * FRAME_BYTES


# On disk


def test_reopens_as_it_was_flushed(tmp_path: Path):
    with Replay(tmp_path, chunk_rows=3) as replay:
        fill(replay, 4, 1)
        replay.append(make_frame(5), 5, 0.25, False, False)
        replay.append(make_frame(6), 6, 0.25, False, False, environment=3)
        replay.flush()
        before = sample(replay, 64, 3, "end")
    with Replay(tmp_path, chunk_rows=5) as replay:
        assert len(replay) == 7
        assert rows_of(replay) == [[0, 1, 2, 3], [4], [5], [6]]
        after = sample(replay, 64, 3, "end")
        for name in ("frames", "actions", "rewards", "ends", "mask"):
            assert torch.equal(getattr(before, name), getattr(after, name))
        replay.append(make_frame(7), 7, 0.0, True, False, environment=3)
        assert rows_of(replay)[3] == [6, 7]


def test_rows_after_the_flush_do_not_count(tmp_path: Path):
    with Replay(tmp_path, chunk_rows=2) as replay:
        fill(replay, 2)
        replay.append(make_frame(2), 2, 0.0, False, False)
        replay.flush()
        replay.append(make_frame(3), 3, 0.0, True, False)
        fill(replay, 3)
    with Replay(tmp_path, chunk_rows=2) as replay:
        assert rows_of(replay) == [[0, 1], [2]]
        replay.append(make_frame(77), 77, 0.0, False, False)
        assert rows_of(replay) == [[0, 1], [2, 3]]
        np.testing.assert_array_equal(replay.open_episode_frames(0, 1)[0], make_frame(77))


def test_a_folder_never_flushed_is_an_empty_replay(tmp_path: Path):
    with Replay(tmp_path / "deep" / "replay", chunk_rows=2) as replay:
        fill(replay, 3)
    with Replay(tmp_path / "deep" / "replay", chunk_rows=2) as replay:
        assert len(replay) == 0 and len(replay.episodes) == 0


def test_flush_leaves_no_other_files(tmp_path: Path):
    with Replay(tmp_path, chunk_rows=2) as replay:
        replay.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames.bin", "replay.json", "steps.bin"]
    assert json.loads((tmp_path / "replay.json").read_text()) == {"version": 1, "rows": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 2, "rows": 3}', "format version 2; this release reads 1"),
        ('{"version": 2}', "format version 2; this release reads 1"),
        ('{"version": 1}', "replay.json is damaged"),
        ('{"version": 1, "rows": "many"}', "replay.json is damaged"),
        ("[]", "replay.json is damaged"),
        ("{", "replay.json is damaged"),
    ],
)
def test_refuses_a_header_it_cannot_read(tmp_path: Path, text: str, message: str):
    (tmp_path / "replay.json").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        Replay(tmp_path, chunk_rows=2)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["frames.bin", "steps.bin"])
@pytest.mark.parametrize("missing", [True, False])
def test_refuses_files_too_short_for_their_rows(tmp_path: Path, name: str, missing: bool):
    with Replay(tmp_path, chunk_rows=2) as replay:
        fill(replay, 4)
        replay.flush()
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 1)
    if missing:
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=f"{name} has [0-9]+ bytes, too few for 4 rows"):
        Replay(tmp_path, chunk_rows=2)


@pytest.mark.parametrize("how", ["closed", "collected"])
def test_a_temporary_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    replay = Replay(None, chunk_rows=2)
    fill(replay, 3)
    replay.flush()
    assert len(list(tmp_path.iterdir())) == 1
    if how == "closed":
        replay.close()
        replay.close()
    del replay
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_given_folder_stays(tmp_path: Path):
    replay = Replay(tmp_path, chunk_rows=2)
    replay.close()
    assert (tmp_path / "frames.bin").exists()


# Against lists


class NaiveReplay:
    """The same in lists: rows of (number, environment, terminated, truncated)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, bool, bool]] = []
        self.flushed = 0

    def episodes(self) -> list[list[int]]:
        episodes: list[list[int]] = []
        current: dict[int, list[int]] = {}
        for row, (_, environment, terminated, truncated) in enumerate(self.rows):
            if environment not in current:
                current[environment] = []
                episodes.append(current[environment])
            current[environment].append(row)
            if terminated or truncated:
                del current[environment]
        return episodes

    def truncate_open(self, environment: int | None) -> None:
        for episode in self.episodes():
            number, owner, terminated, truncated = self.rows[episode[-1]]
            if not terminated and not truncated and environment in (None, owner):
                self.rows[episode[-1]] = (number, owner, False, True)

    def segment(self, batch_size: int, length: int, seed: int, align: str) -> list[list[tuple[int, bool, bool]]]:
        """(number, end, mask) of every place, 0 and False where padded."""
        generator, episodes = np.random.default_rng(seed), self.episodes()
        chosen = [episodes[index] for index in generator.integers(len(episodes), size=batch_size)]
        batch = []
        for episode, step in zip(chosen, generator.integers([len(episode) for episode in chosen]), strict=True):
            padding = [(0, False, False)] * length
            if align == "start":
                places = [(self.rows[row][0], self.rows[row][2], True) for row in episode[step:]]
                batch.append((places + padding)[:length])
            else:
                places = [(self.rows[row][0], self.rows[row][2], True) for row in episode[: step + 1]]
                batch.append((padding + places)[-length:])
        return batch


# The mirror


def both(folder: Path, **arguments) -> tuple[Replay, Replay]:
    return tuple(Replay(folder / name, chunk_rows=4, mirror=name == "on", **arguments) for name in ("off", "on"))


def assert_same_draws(plain: Replay, mirrored: Replay) -> None:
    for align, length, seed in (("start", 3, 0), ("end", 5, 1), ("start", 1, 2), ("end", 30, 3)):
        one, other = (sample(replay, 16, length, align, seed) for replay in (plain, mirrored))
        for name in ("frames", "actions", "rewards", "ends", "mask"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        np.testing.assert_array_equal(one.rows, other.rows)


def test_segments_are_the_same_with_a_mirror(tmp_path: Path):
    plain, mirrored = both(tmp_path)
    for lengths in [(3, 7), (1,), (9, 2, 5)]:
        for replay in (plain, mirrored):
            fill(replay, *lengths)
            replay.append(make_frame(len(replay)), 0, 0.0, False, False, environment=1)
        assert_same_draws(plain, mirrored)
    for replay in (plain, mirrored):
        replay.truncate_open()
        fill(replay, 2, environment=1)
    assert_same_draws(plain, mirrored)
    assert isinstance(mirrored._mirror, DeviceFrames) and plain._mirror is None


def test_a_replay_reopened_with_fewer_rows_has_a_mirror_of_those(tmp_path: Path):
    for replay in both(tmp_path):
        fill(replay, 5, 6)
        sample(replay, 4, 3, "start")
        replay.flush()
        replay.close()
    plain, mirrored = both(tmp_path, rows=7)
    for replay in (plain, mirrored):
        for number in range(100, 104):  # over the rows that no longer count
            replay.append(make_frame(number), 0, 0.0, False, False)
    assert_same_draws(plain, mirrored)


def test_a_mirror_is_kept_on_a_gpu_alone_unless_asked_for(replay: Replay):
    assert replay._mirror is None


def test_where_there_is_no_room_the_mirror_is_given_up_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain, mirrored = both(tmp_path)
    for replay in (plain, mirrored):
        fill(replay, 4)
    monkeypatch.setattr(device_frames, "free_bytes", lambda device: 0)
    with pytest.warns(UserWarning, match="cpu has no room for the replay's frames"):
        sample(mirrored, 4, 3, "start")
    assert mirrored._mirror is None
    assert_same_draws(plain, mirrored)  # and no further warning, which would be an error


environments = st.integers(0, 2)
operations = st.one_of(
    st.tuples(st.just("append"), environments, st.sampled_from([(0, 0)] * 4 + [(1, 0), (0, 1), (1, 1)])),
    st.tuples(st.just("truncate"), st.none() | environments, st.none()),
    st.tuples(st.sampled_from(["flush", "reopen"]), st.none(), st.none()),
)


def apply(replay: Replay, naive: NaiveReplay, operation: str, environment: int | None, ends: tuple | None, number: int):
    """Do one thing to both; returns the replay, which is another object once it was reopened."""
    if operation == "append":
        assert environment is not None and ends is not None
        terminated, truncated = map(bool, ends)
        replay.append(make_frame(number), number, number / 4, terminated, truncated, environment)
        naive.rows.append((number, environment, terminated, truncated))
    elif operation == "truncate":
        replay.truncate_open(environment)
        naive.truncate_open(environment)
    elif operation == "flush":
        replay.flush()
        naive.flushed = len(naive.rows)
    else:
        replay.close()
        naive.rows = naive.rows[: naive.flushed]
        return Replay(replay._folder, chunk_rows=replay._chunk_rows)
    return replay


def check_same(replay: Replay, naive: NaiveReplay, length: int, align: Literal["start", "end"], seed: int) -> None:
    assert len(replay) == len(naive.rows)
    assert rows_of(replay) == naive.episodes()
    for episode in replay.episodes:
        assert (episode.terminated, episode.truncated) == naive.rows[episode.rows[-1]][2:]
    if naive.rows:
        segment, expected = sample(replay, 4, length, align, seed), naive.segment(4, length, seed, align)
        numbers = [[number for number, _, _ in row] for row in expected]
        assert segment.actions.tolist() == numbers
        assert segment.rewards.tolist() == [[number / 4 for number in row] for row in numbers]
        assert segment.ends.tolist() == [[end for _, end, _ in row] for row in expected]
        assert segment.mask.tolist() == [[valid for _, _, valid in row] for row in expected]
        for frame, (number, _, valid) in zip(segment.frames.flatten(0, 1), sum(expected, []), strict=True):
            np.testing.assert_array_equal(frame, make_frame(number) if valid else np.zeros(FRAME_SHAPE))


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(operations, max_size=25),
    chunk_rows=st.integers(1, 5),
    length=st.integers(1, 6),
    align=st.sampled_from(["start", "end"]),
    seed=st.integers(0, 1_000),
)
def test_equals_lists(script: list, chunk_rows: int, length: int, align: Literal["start", "end"], seed: int):
    with tempfile.TemporaryDirectory() as folder:
        replay, naive = Replay(Path(folder), chunk_rows=chunk_rows), NaiveReplay()
        for number, (operation, environment, ends) in enumerate(script, start=1):
            replay = apply(replay, naive, operation, environment, ends, number)
        check_same(replay, naive, length, align, seed)
        replay.close()


# ------------------------------------------------------------------ folders of strangers


def filled(folder: Path, rows: int = 6) -> Path:
    with Replay(folder, chunk_rows=8) as replay:
        for row in range(rows):
            replay.append(np.zeros((3, 64, 64), np.uint8), row % 3, 1.0, False, row % 2 == 1)
        replay.flush()
    return folder


@pytest.mark.parametrize(
    "text",
    [
        '{"version": 1, "rows": -1}',
        '{"version": 1, "rows": 1.5}',
        '{"version": 1, "rows": true}',
        '{"version": 1, "rows": "6"}',
        '{"version": 1, "rows": 1e999}',
        '{"version": 1, "rows": NaN}',
        '{"version": 1, "rows": 1000000000000}',
        '{"version": 1, "rows": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "[]",
    ],
    ids=str,
)
def test_a_header_of_no_rows_is_refused(text, tmp_path):
    (filled(tmp_path) / "replay.json").write_text(text)
    with pytest.raises(UsageError, match=r"replay\.json is damaged"):
        Replay(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("action", 3, "row 2 the action is not in 0 to 2"),
        ("action", -1, "row 2 the action is not in 0 to 2"),
        ("environment", 1, "row 2 the environment is not in 0 to 0"),
        ("reward", np.nan, "row 2 the reward is not finite"),
        ("reward", np.inf, "row 2 the reward is not finite"),
        ("truncated", 2, "row 2 the terminated or truncated is neither 0 nor 1"),
    ],
)
def test_a_row_that_no_environment_gave_is_named(field, value, words, tmp_path):
    steps = np.fromfile(filled(tmp_path) / "steps.bin", STEP)
    (steps[field].view(np.uint8) if field == "truncated" else steps[field])[2] = value
    steps.tofile(tmp_path / "steps.bin")
    with Replay(tmp_path) as replay, pytest.raises(UsageError, match=words):
        replay.check_steps(3, 1)


def test_the_rows_of_a_sound_replay_are_let_pass(tmp_path):
    with Replay(filled(tmp_path)) as replay:
        replay.check_steps(3, 1)


@pytest.mark.parametrize("name", ["frames.bin", "steps.bin"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_file_that_is_something_else_is_not_written_through(name, kind, tmp_path):
    path, elsewhere = filled(tmp_path / "replay") / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    {"link": lambda: path.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    before = elsewhere.read_bytes()
    with pytest.raises(UsageError, match=f"{name} is no regular file"):
        Replay(tmp_path / "replay")
    assert elsewhere.read_bytes() == before

import numpy as np
import pytest

from iris_gym.data.episode import Episode


def make_episode(*rows: int) -> Episode:
    episode = Episode()
    for row in rows:
        episode.append(row)
    return episode


@pytest.mark.parametrize(
    ("start", "stop", "rows", "mask"),
    [
        (0, 3, [5, 7, 9], [True, True, True]),
        (1, 2, [7], [True]),
        (1, 5, [7, 9, 9, 9], [True, True, False, False]),
        (-2, 2, [5, 5, 5, 7], [False, False, True, True]),
        (-1, 4, [5, 5, 7, 9, 9], [False, True, True, True, False]),
        (3, 5, [9, 9], [False, False]),
        (-2, 0, [5, 5], [False, False]),
        (1, 1, [], []),
    ],
)
def test_window_pads_with_the_nearest_row(start: int, stop: int, rows: list[int], mask: list[bool]):
    got_rows, got_mask = make_episode(5, 7, 9).window(start, stop)
    assert got_rows.dtype == np.int64 and got_mask.dtype == np.bool_
    assert got_rows.tolist() == rows
    assert got_mask.tolist() == mask


def test_window_and_rows_are_copies_that_let_the_episode_grow():
    episode = make_episode(1, 2)
    rows, window = episode.rows, episode.window(0, 2)[0]
    episode.append(3)
    rows[0] = window[0] = 99
    assert episode.rows.tolist() == [1, 2, 3]
    assert episode.rows.dtype == np.int64


def test_grows_and_knows_its_length():
    episode = make_episode(*range(10_000))
    assert len(episode) == 10_000
    assert episode.window(9_998, 10_001)[0].tolist() == [9_998, 9_999, 9_999]


def test_a_row_is_found_among_those_of_the_episode():
    episode = Episode()
    for row in (3, 5, 9):
        episode.append(row)
    assert [episode.step_of(row) for row in (3, 5, 9)] == [0, 1, 2]


def test_is_open_until_terminated_or_truncated():
    assert Episode().open
    assert not Episode(terminated=True).open
    assert not Episode(truncated=True).open

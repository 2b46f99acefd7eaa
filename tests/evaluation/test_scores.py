"""The figures of `scores.json`."""

import json
import math
import os
import platform
from importlib import metadata

import pytest

from iris_gym.evaluation.evaluate import EpisodeScore
from iris_gym.evaluation.scores import (
    cut_episodes,
    human_normalized,
    mean_and_error,
    random_score,
    reference_scores,
    summary,
    write_scores,
)

SCORES = [EpisodeScore(10.0, 100, 7, False), EpisodeScore(14.0, 200, 8, True), EpisodeScore(12.0, 150, 9, False)]


@pytest.mark.parametrize(
    "env_id, mean, expected",
    [
        ("ALE/Pong-v5", 14.6, 1.0),
        ("ALE/Pong-v5", -20.7, 0.0),
        ("ALE/Pong-v5", 0.0, 20.7 / 35.3),
        ("ALE/Boxing-v5", 70.1, 70.0 / 12.0),
        ("ALE/Boxing-v5", -5.9, -0.5),
        ("ale_py:ALE/Boxing-v5", 12.1, 1.0),
        ("PongNoFrameskip-v4", 14.6, 1.0),
        ("Pong-v4", 14.6, 1.0),
    ],
)
def test_human_normalized(env_id: str, mean: float, expected: float):
    assert human_normalized(env_id, mean) == pytest.approx(expected)
    assert human_normalized(env_id, random_score(env_id)) == 0


@pytest.mark.parametrize(
    "env_id", ["ALE/Tennis-v5", "MinAtar/Breakout-v1", "MiniGrid-Empty-5x5-v0", "Unknown-v0", "Pong", "my:Pong-v9", ""]
)
def test_other_environments_have_no_human_score(env_id: str):
    assert human_normalized(env_id, 1.0) is None and random_score(env_id) is None


def test_the_table_has_the_26_games():
    table = reference_scores()
    assert len(table["games"]) == 26
    assert set(table["games"]) == set(table["human"]) == set(table["random"])
    assert all(human_normalized(f"ALE/{game}-v5", table["human"][game]) == 1.0 for game in table["games"])


def test_summary():
    got = summary("ALE/Boxing-v5", SCORES, {"temperature": 0.5})
    assert list(got) == [
        "env", "episodes", "mean", "standard_error", "human_normalized", "protocol", "versions",
    ]  # fmt: skip
    assert got["env"] == "ALE/Boxing-v5"
    assert got["episodes"][1] == {"return": 14.0, "length": 200, "seed": 8, "truncated": True}
    assert got["mean"] == 12.0
    assert got["standard_error"] == pytest.approx(2 / math.sqrt(3))
    assert got["human_normalized"] == pytest.approx(11.9 / 12.0)
    assert got["protocol"] == {"temperature": 0.5}


def test_summary_names_versions():
    versions = summary("Other-v0", SCORES, {})["versions"]
    assert set(versions) == {"iris_gym", "torch", "gymnasium", "ale-py", "stable-baselines3", "numpy", "python"}
    assert versions["gymnasium"] == metadata.version("gymnasium")
    assert versions["python"] == platform.python_version()


def test_one_episode_has_no_standard_error():
    got = summary("Other-v0", SCORES[:1], {})
    assert (got["mean"], got["standard_error"], got["human_normalized"]) == (10.0, None, None)


def test_a_limit_of_the_environment_is_no_cut_of_the_evaluation():
    assert [cut_episodes(summary("Pong", SCORES, {"max_steps": limit})) for limit in (150, 200, 300)] == [1, 1, 0]


def test_the_mean_in_words():
    assert mean_and_error(summary("Pong", SCORES, {})) == "12.00 ± 1.15"
    assert mean_and_error(summary("Pong", SCORES[:1], {})) == "10.00"


def test_write_scores_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "run" / "scores.json"
    write_scores(path, {"mean": 1.0})
    written = summary("ALE/Pong-v5", SCORES, {"temperature": 0.5})
    write_scores(str(path), written)
    assert json.loads(path.read_text()) == written
    assert os.listdir(path.parent) == ["scores.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    write_scores(path, {"mean": 1.0})

    def fail(_descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scores(path, {"mean": 2.0})
    assert json.loads(path.read_text()) == {"mean": 1.0}
    assert os.listdir(tmp_path) == ["scores.json"]

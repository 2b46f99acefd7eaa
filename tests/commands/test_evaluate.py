"""`iris-gym evaluate`, in ways that tests/test_cli.py does not go."""

import json
import os
from pathlib import Path

import pytest

from iris_gym import IRISAgent, IRISConfig
from iris_gym.commands import evaluate as module

GRID = "MiniGrid-Empty-5x5-v0"
CONFIG = IRISConfig.tiny(atari_100k=False, max_env_steps=1000)

AGENT = """
import numpy as np

def forward(observations, deterministic=False):
    return np.full(len(observations), 2 if deterministic else 0)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "grid.zip"
    IRISAgent(GRID, CONFIG, seed=0, device="cpu").save(path)
    return path


@pytest.fixture(scope="module")
def of_an_object(tmp_path_factory) -> Path:
    """An agent that was given its environment as an object, whose id it does not know."""
    from iris_gym import make_env

    path = tmp_path_factory.mktemp("object") / "object.zip"
    IRISAgent(make_env(GRID), CONFIG, seed=0, device="cpu").save(path)
    return path


def scores(path: str | Path = "scores.json") -> dict:
    return json.loads(Path(path).read_text())


SHORT = ("--episodes", 2, "--max-steps", 15, "--device", "cpu")


def test_scores_say_how_they_were_played(cli, saved):
    assert cli("evaluate", "--run", saved, *SHORT, "--seed", 4, "--out", "mine/a.json")[0] == 0
    found = scores("mine/a.json")
    assert list(found) == ["env", "episodes", "mean", "standard_error", "human_normalized", "protocol", "versions"]
    assert found["protocol"] == {
        "agent": "IRIS",
        "temperature": 0.5,
        "deterministic": False,
        "epsilon": 0.0,
        "preprocessing": "iris",
        "atari_100k": False,
        "env_steps_trained": 0,
        "max_steps": 15,
    }
    assert [(game["seed"], game["length"], game["truncated"]) for game in found["episodes"]] == [
        (4, 15, True),
        (5, 15, True),
    ]


def test_two_evaluations_with_one_seed_are_one(cli, saved):
    for name in ("a.json", "b.json"):
        cli("evaluate", "--run", saved, "--episodes", 3, "--device", "cpu", "--temperature", 1, "--out", name)
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_deterministic_is_temperature_0(cli, saved):
    cli("evaluate", "--run", saved, *SHORT, "--deterministic", "--out", "a.json")
    cli("evaluate", "--run", saved, *SHORT, "--temperature", 0, "--out", "b.json")
    assert scores("a.json") == scores("b.json")
    assert scores("a.json")["protocol"]["temperature"] == 0.0


def test_the_preprocessing_is_chosen(cli, tmp_path):
    IRISAgent("ALE/Pong-v5", IRISConfig.tiny(), seed=0, device="cpu").save("pong.zip")
    status, out, _ = cli("evaluate", "--run", "pong.zip", *SHORT, "--preprocessing", "ale")
    assert status == 0 and "over 2 games of 15 steps (2 of them cut)" in out
    assert scores("pong.scores.json")["protocol"]["preprocessing"] == "ale"


def test_a_run_without_an_id_needs_one(cli, refused, of_an_object):
    assert "env_id=None is not known" in refused("evaluate", "--run", of_an_object, *SHORT)
    assert cli("evaluate", "--run", of_an_object, *SHORT, "--env", GRID, "--out", "a.json")[0] == 0
    assert scores("a.json")["env"] == GRID


def test_a_video_of_the_first_game(cli, saved):
    from moviepy import VideoFileClip

    status, out, _ = cli("evaluate", "--run", saved, *SHORT, "--seed", 7, "--out", "here/a.json", "--video")
    video = Path("here/evaluation_seed7.mp4")
    assert status == 0 and f"video: {video}" in out
    with VideoFileClip(str(video)) as clip:
        assert clip.n_frames == 16


def test_a_function_is_evaluated_under_the_same_protocol(cli):
    Path("commands_agent.py").write_text(AGENT)
    status, out, _ = cli("evaluate", "--agent", "commands_agent:forward", "--env", GRID, *SHORT, "--deterministic")
    assert status == 0 and "written to scores.json" in out
    found = scores()
    assert found["protocol"] == {
        "agent": "commands_agent:forward",
        "deterministic": True,
        "preprocessing": "iris",
        "atari_100k": True,
        "max_steps": 15,
    }
    assert found["env"] == GRID and found["mean"] == 0


def test_workers_are_as_many_as_cores_and_work(cli, saved, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "usable_cores", lambda: 5)
    monkeypatch.setattr(module, "evaluate", lambda *_, workers, **__: asked.append(workers) or _one_score())
    for episodes, flags in ((100, ()), (16, ()), (1, ()), (100, ("--workers", 3))):
        cli("evaluate", "--run", saved, "--episodes", episodes, *flags, "--device", "cpu", "--out", "a.json")
    assert asked == [5, 2, 1, 3]
    monkeypatch.setattr(module.torch.cuda, "is_initialized", lambda: True)
    for episodes in (100, 16):
        cli("evaluate", "--run", saved, "--episodes", episodes, "--device", "cpu", "--out", "a.json")
    assert asked[4:] == [4, 2], "fewer of them share a GPU"


def _one_score():
    from iris_gym.evaluation.rows import EpisodeScore

    return [EpisodeScore(1.0, 2, 3, False)]


BAD = {
    "nobody": ((), "give either --run, a run folder or a saved zip, or --agent"),
    "two of them": (("--run", "a", "--agent", "b:c", "--env", GRID), "give either --run"),
    "a function without an environment": (("--agent", "b:c"), "env=None is not known with --agent"),
    "a function with a temperature": (
        ("--agent", "b:c", "--env", GRID, "--temperature", 1),
        "temperature=1.0 is for runs",
    ),
    "no function": (("--agent", "nonsense", "--env", GRID), "agent: 'nonsense' names no function"),
    "no module": (("--agent", "no_such:act", "--env", GRID), "'no_such:act' cannot be loaded"),
    "no environment": (("--agent", "json:dumps", "--env", "Nowhere-v0"), "'Nowhere-v0' is not a registered"),
    "a function that fails": (("--agent", "math:sqrt", "--env", GRID), "agent: 'math:sqrt' raised TypeError"),
    "no images": (("--agent", "json:dumps", "--env", "CartPole-v1"), "uint8 Box of images"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(arguments, message, refused):
    assert message in refused("evaluate", *arguments, "--episodes", 1)
    assert not Path("scores.json").exists()


BAD_FOR_RUNS = {
    "both": (("--temperature", 1, "--deterministic"), "temperature=1.0 and deterministic=True contradict each other"),
    "ale's for another game": (("--preprocessing", "ale"), "'ale' is for Atari games under the Atari 100k protocol"),
    "an environment of other actions": (("--env", "MinAtar/Breakout-v1"), "has actions Discrete"),
    "no workers": (("--workers", 0), "workers: 0 is too few"),
    "workers in words": (("--workers", "many"), "--workers"),
    "no steps": (("--max-steps", 0), "max_steps: 0 is too few"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_FOR_RUNS.values(), ids=BAD_FOR_RUNS)
def test_bad_input_for_a_run_is_one_line(arguments, message, refused, saved):
    assert message in refused("evaluate", "--run", saved, "--device", "cpu", "--out", "a.json", *arguments)
    assert not Path("a.json").exists()


@pytest.mark.parametrize("program", ["/no/ffmpeg", "unset"])
def test_a_video_without_ffmpeg_is_refused_before_anything_is_played(refused, saved, monkeypatch, program):
    monkeypatch.setattr("moviepy.config.FFMPEG_BINARY", program)
    assert "a video needs ffmpeg" in refused("evaluate", "--run", saved, *SHORT, "--video")


def test_scores_are_not_put_in_the_place_of_a_folder_or_a_pipe(refused, saved):
    os.mkfifo("pipe"), os.mkdir("folder")
    for name in ("pipe", "folder"):
        said = refused("evaluate", "--run", saved, *SHORT, "--out", name)
        assert f"out='{name}' is no file; give the name of one" in said
    assert Path("pipe").is_fifo() and not list(Path("folder").iterdir())


def test_a_video_without_moviepy_is_refused_before_anything_is_played(refused, saved, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "moviepy.video.io.ffmpeg_writer", None)
    monkeypatch.setattr(module, "evaluate", None)
    assert 'pip install "iris-gym[video]"' in refused("evaluate", "--run", saved, "--video")

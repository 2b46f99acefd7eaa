"""How `iris-gym train` ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from moviepy import VideoFileClip
from PIL import Image
from rich.console import Console

from iris_gym import IRISAgent, IRISConfig, make_env
from iris_gym.commands import finale as module

GRID, PONG = "MiniGrid-Empty-5x5-v0", "ALE/Pong-v5"
NUMBER = r"-?\d+\.\d\d"
TRAIN = ("train", "--preset", "tiny", "--device", "cpu", "--seed", "0", "--run-dir", "run", "--env")


@pytest.fixture(scope="module")
def pong() -> IRISAgent:
    return IRISAgent(PONG, IRISConfig.tiny(), seed=0, device="cpu")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*tmp*")]


@pytest.mark.slow
def test_a_complete_run_ends_with_what_was_learned(cli, tmp_path):
    status, out, err = cli(*TRAIN, GRID, "--max-env-steps", 60, "--final-episodes", 3)
    assert (status, err) == (0, "")
    outcome, curve, film = out.splitlines()[-3:]
    assert re.fullmatch(
        rf"{GRID}: return {NUMBER} ± {NUMBER} \(random\) -> {NUMBER} ± {NUMBER} \(agent\), 3 episodes each", outcome
    )
    media = Path("run/media")
    assert (curve, film) == (
        f"learning curve  {media}/learning_curve.png",
        f"dream film      {media}/side-by-side_0.mp4",
    )
    assert len(np.unique(np.asarray(Image.open(media / "learning_curve.png").convert("RGB")))) > 50
    _check_film(media / "side-by-side_0.mp4")
    assert not leftovers(tmp_path)

    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.parent.name != "replay"}
    status, out, err = cli("train", "--run-dir", "run", "--resume", "--device", "cpu")
    assert (status, out, err) == (0, "run has collected 60 steps already: nothing left to do\n", "")
    assert before == {path: path.read_bytes() for path in before}

    Path("run", "final_scores.json").unlink()  # as if the ending had been stopped
    status, out, _ = cli("train", "--run-dir", "run", "--resume", "--device", "cpu")
    assert status == 0 and outcome in out.splitlines() and Path("run", "final_scores.json").exists()

    assert cli("evaluate", "--run", "run", "--episodes", 3, "--device", "cpu", "--max-steps", 2000)[0] == 0
    played, final = (json.loads(Path("run", name).read_text()) for name in ("scores.json", "final_scores.json"))
    random = final.pop("random")
    assert final == played
    assert f"{random['mean']:.2f} ± {random['standard_error']:.2f} (random)" in outcome
    assert [episode["seed"] for episode in random["episodes"]] == [0, 1, 2]


def _check_film(path: Path) -> None:
    """Three panels of frames that are enlarged six times, for 100 steps at least; the first is the real game."""
    with VideoFileClip(str(path)) as clip:
        assert tuple(clip.size) == (3 * 6 * 64, 6 * (64 + 8)) and clip.n_frames > 100
        picture = clip.get_frame(0)
    real = picture[24:-24, : 6 * 64].astype(int)
    env = make_env(GRID, evaluation=True)
    expected = env.reset(seed=0)[0].repeat(6, axis=0).repeat(6, axis=1)
    env.close()
    assert np.abs(real - expected).mean() < 4
    assert all(picture[:24, 384 * panel : 384 * (panel + 1)].max() > 200 for panel in range(3)), "each has its name"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "number", "there"),
    [
        ("play with it", signal.SIGTERM, set()),
        ("learning curve", signal.SIGTERM, {"final_scores.json", "learning_curve.png"}),
        ("learning curve", signal.SIGINT, {"final_scores.json", "learning_curve.png"}),
    ],
)
def test_a_signal_leaves_nothing_half_written(after, number, there, tmp_path):
    """Sent as a terminal sends it, to all processes of the group, ffmpeg among them."""
    flags = "--total-timesteps 60 --final-episodes 4".split()
    command = [sys.executable, "-m", "iris_gym", *TRAIN, "MiniGrid-LavaGapS5-v0", *flags]  # whose episodes are short
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert any(line.startswith(after) for line in process.stdout)
    if "learning curve" in after:
        while not leftovers(tmp_path):
            assert process.poll() is None
            time.sleep(0.02)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "stopped; the run itself is over and saved\n", "")
    written = {path.name for path in (tmp_path / "run").rglob("*.*")}
    assert written & {"final_scores.json", "learning_curve.png", "side-by-side_0.mp4"} == there
    assert not leftovers(tmp_path)
    assert IRISAgent.load(tmp_path / "run", device="cpu").num_timesteps == 60
    if number == signal.SIGINT:
        resume = [sys.executable, "-m", "iris_gym", "train", "--run-dir", "run", "--resume", "--device", "cpu"]
        again = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "nothing left to do" in again.stdout and "dream film" in again.stdout
        assert (tmp_path / "run" / "media" / "side-by-side_0.mp4").exists()


def test_an_ending_counts_for_the_agent_that_it_was_of(tmp_path, monkeypatch):
    """Not for one that has learned on, nor where it was stopped after the scores."""
    agent = IRISAgent(GRID, IRISConfig.tiny(), seed=0, device="cpu", run_dir=tmp_path / "run")
    silent = Console(quiet=True)
    monkeypatch.setattr(module, "_film", lambda agent, scores: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.finale(agent, 1, silent)
    assert agent.run.final_scores_file.exists() and not module.has_ended(agent)
    monkeypatch.setattr(module, "_film", lambda agent, scores: tmp_path)
    module.finale(agent, 1, silent)
    assert module.has_ended(agent)
    agent.trainer.env_steps += 1
    assert not module.has_ended(agent)


@pytest.mark.slow
def test_an_atari_game_is_held_against_the_published_random_score(cli):
    flags = ("--total-timesteps", 60, "--final-episodes", 1)
    status, out, _ = cli(*TRAIN, PONG, *flags)
    assert status == 0
    outcome = out.splitlines()[-3]
    assert re.fullmatch(rf"{PONG}: return -20\.70 \(random, published\) -> {NUMBER} \(agent\), 1 episode", outcome), (
        outcome
    )
    status, out, _ = cli("scores", "--runs", "run/final_scores.json", "--no-published")
    assert status == 0 and "Evaluated on 1 episodes, not 100: run/final_scores.json." in out


def test_where_games_are_cut_a_random_policy_plays_them_too(pong, monkeypatch):
    monkeypatch.setattr(module, "MAX_STEPS", 12)
    scores = module._final_scores(pong, 2)
    assert scores["random"]["source"] == "played" and scores["protocol"]["max_steps"] == 12
    assert [episode["length"] for episode in scores["episodes"] + scores["random"]["episodes"]] == [12] * 4
    assert module._outcome(scores) == (
        "ALE/Pong-v5: return 0.00 ± 0.00 (random) -> 0.00 ± 0.00 (agent), 2 episodes each; "
        "cut at 12 steps: 2 of the agent's and 2 of the random ones"
    )


def test_no_evaluation_is_longer_than_those_of_the_training():
    agent = IRISAgent(GRID, IRISConfig.tiny(max_eval_steps=5), seed=0, device="cpu")
    assert {episode["length"] for episode in module._final_scores(agent, 2)["episodes"]} == {5}


@pytest.mark.filterwarnings("default:learning ends at")
def test_extras_that_are_missing_are_named(cli, monkeypatch):
    for name in ("matplotlib", "moviepy.video.io.ffmpeg_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    status, out, _ = cli(*TRAIN, GRID, "--total-timesteps", 5, "--final-episodes", 1)
    assert status == 0
    assert out.splitlines()[-2:] == [
        'no learning curve: it needs matplotlib; run: pip install "iris-gym[plot]"',
        'no dream film: a video needs moviepy; run: pip install "iris-gym[video]"',
    ]


@pytest.mark.filterwarnings("default:learning ends at")
def test_without_episodes_there_is_no_such_end_and_a_resumed_run_knows(cli):
    status, out, _ = cli(*TRAIN, GRID, "--total-timesteps", 5, "--final-episodes", 0)
    assert status == 0 and out.splitlines()[-1] == "play with it: iris-gym evaluate --run run"
    status, out, _ = cli("train", "--run-dir", "run", "--resume", "--device", "cpu", "--total-timesteps", 10)
    assert status == 0 and out.splitlines()[-1] == "play with it: iris-gym evaluate --run run"
    assert not Path("run/final_scores.json").exists()


@pytest.mark.filterwarnings("default:learning ends at", "default:the .* of this agent has had no update")
def test_games_that_are_asked_for_are_played_though_the_run_has_ended(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_film", lambda agent, scores: tmp_path)
    cli(*TRAIN, GRID, "--total-timesteps", 5, "--final-episodes", 1)
    again = ("train", "--run-dir", "run", "--resume", "--device", "cpu")
    assert cli(*again)[1].splitlines()[-1].endswith("nothing left to do")
    assert cli(*again, "--final-episodes", 2)[0] == 0
    assert len(json.loads(Path("run/final_scores.json").read_text())["episodes"]) == 2


@pytest.mark.parametrize("found", ['"many"', "true", "1e9", "-2"])
def test_a_spoiled_number_of_episodes_is_one_line(found, refused, tmp_path):
    IRISAgent(GRID, IRISConfig.tiny(), seed=0, device="cpu", run_dir=tmp_path / "run")
    settings = Path("run/run.json")
    settings.write_text(settings.read_text().replace("{", f'{{"final_episodes": {found},', 1))
    assert "final_episodes=" in refused("train", "--run-dir", "run", "--resume", "--device", "cpu")


@pytest.mark.parametrize("found", ['"2"', "1.5", "true"])
def test_a_spoiled_number_of_threads_is_one_line(found, refused, tmp_path):
    IRISAgent(GRID, IRISConfig.tiny(), seed=0, device="cpu", run_dir=tmp_path / "run")
    settings = Path("run/run.json")
    settings.write_text(settings.read_text().replace("{", f'{{"threads": {found},', 1))
    assert "threads=" in refused("train", "--run-dir", "run", "--resume", "--device", "cpu")


def test_how_many_episodes_are_played(pong, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_final_scores", lambda agent, episodes: asked.append(episodes) or 1 / 0)
    for agent, episodes in ((pong, None), (IRISAgent(GRID, IRISConfig.tiny(), device="cpu"), None), (pong, 3)):
        agent.run = True
        with pytest.raises(Exception, match="division by zero"):
            module.finale(agent, episodes, None)
    assert asked == [4, 20, 3]

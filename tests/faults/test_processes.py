"""Faults as they happen to real processes: full disks, signals, two trainings in one folder, broken environments."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from iris_gym.evaluation.video import write_video
from iris_gym.training.checkpoint import read_newest_checkpoint

GAMES = """
import time
from pathlib import Path

import gymnasium as gym
import numpy as np


class Game(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    length = 9

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.picture(), {}

    def step(self, action):
        self.steps += 1
        return self.picture(), 1.0, self.steps == self.length, False, {}

    def picture(self):
        return np.full((64, 64, 3), 20 * self.steps % 256, np.uint8)


class Endless(Game):
    length = None

    def step(self, action):
        if self.steps == 100:  # an evaluation; a training is over before
            Path("evaluating").touch()
        return super().step(action)


class Stuck(Game):
    def step(self, action):
        Path("stuck").touch()
        time.sleep(600)


class Raises(Game):
    def step(self, action):
        return super().step(action) if self.steps < 5 else self.picture(1)


class Nothing(Game):
    def step(self, action):
        return self.picture(), float("nan"), False, False, {}


class Shrinks(Game):
    def picture(self):
        return np.zeros((64, 64 - self.steps, 3), np.uint8)


class Floats(Game):
    def picture(self):
        return np.zeros((64, 64, 3), np.float32 if self.steps else np.uint8)


for game in (Game, Endless, Stuck, Raises, Nothing, Shrinks, Floats):
    gym.register(f"{game.__name__}-v0", game, disable_env_checker=True)
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with the games."""
    (tmp_path / "games.py").write_text(GAMES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def training(run: Path | str, game: str, *arguments: str) -> subprocess.Popen:
    paths = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "iris_gym", "train", "--run-dir", str(run), "--env", f"games:{game}-v0"]
    command += ["--preset", "tiny", "--device", "cpu", "--seed", "0", "--final-episodes", "0", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def end(process: subprocess.Popen) -> tuple[int, str]:
    """The exit status, and what was said on stderr."""
    _, err = process.communicate(timeout=300)
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "words"),
    [
        ("Raises", "at step 6: TypeError: "),
        ("Nothing", "at step 1: ValueError: rewards [nan], not all of them finite"),
        ("Shrinks", "at step 1: ValueError: an observation of shape (64, 63, 3) and dtype uint8"),
        ("Floats", "at step 1: ValueError: an observation of shape (64, 64, 3) and dtype float32"),
    ],
)
def test_a_broken_environment_is_one_line(game, words, here):
    status, err = end(training("run", game, "--total-timesteps", "50"))
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("iris-gym: error: the environment failed " + words)


@pytest.mark.slow
def test_an_evaluation_of_games_without_end_is_cut_or_left_at_a_signal(here):
    options = ("Endless", "--total-timesteps", "60", "--eval-interval", "1", "--start-actor-critic-after", "0")
    assert end(training("cut", *options, "--max-eval-steps", "30")) == (0, "")
    process = training("left", *options)
    wait_for(Path("evaluating").exists, process)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "")
    assert time.monotonic() - begun < 20
    snapshot = read_newest_checkpoint(Path("left/checkpoints"))
    assert snapshot.state["trainer"]["position"] == {"epoch": 1, "phase": 4, "done": 0}
    assert end(training("left", *options, "--resume", "--max-eval-steps", "30"))[0] == 2, "another hyperparameter"


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(here):
    process = training("run", "Stuck", "--total-timesteps", "40")
    wait_for(Path("stuck").exists, process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "the first one waits for the step"
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == -signal.SIGINT


@pytest.mark.slow
def test_a_folder_is_trained_in_by_one_process_and_free_when_that_is_killed(here):
    process = training("run", "Stuck", "--total-timesteps", "40")
    wait_for(Path("stuck").exists, process)
    status, err = end(training("run", "Stuck", "--total-timesteps", "40", "--resume"))
    assert (status, err.count("\n")) == (2, 1)
    assert "run_dir='run' is being trained in by another process" in err
    process.kill()
    end(process)
    Path("stuck").unlink()
    process = training("run", "Stuck", "--total-timesteps", "40", "--resume")
    wait_for(Path("stuck").exists, process)
    process.kill()
    end(process)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_video_that_finds_no_room_is_one_line_and_leaves_nothing(here):
    draws = np.random.default_rng(0)
    images = (draws.integers(256, size=(256, 256, 3), dtype=np.uint8) for _ in range(300))
    with small_disk(here / "disk", "40k") as disk:
        with pytest.raises(OSError, match=r"^the video '.*a\.mp4' cannot be written: No space left on device$"):
            write_video(disk / "a.mp4", images, 15)
        assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_a_replay_that_finds_no_room_is_one_line_that_names_its_file(here):
    with small_disk(here / "disk", "10m") as disk:
        status, err = end(training(disk / "run", "Game", "--total-timesteps", "20"))
        assert (status, err.count("\n")) == (1, 1)
        assert err.endswith("No space left on device: '{}'\n".format(disk / "run" / "replay" / "frames.bin"))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_nothing(here):
    with small_disk(here / "disk", "48m") as disk:
        options = ("Game", "--total-timesteps", "2000", "--checkpoint-interval", "1")
        process = training(disk / "run", *options)
        wait_for(lambda: list((disk / "run" / "checkpoints").glob("[0-9]*/complete")), process)
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(bytes(48 * 2**20))
        status, err = end(process)
        assert (status, err.count("\n")) == (1, 1), err
        assert "No space left on device" in err
        snapshot = read_newest_checkpoint(disk / "run" / "checkpoints")
        assert snapshot.state["num_timesteps"] > 0
        (disk / "filler").unlink()
        options = ("Game", "--total-timesteps", str(snapshot.state["num_timesteps"] + 20), "--checkpoint-interval", "1")
        assert end(training(disk / "run", *options, "--resume"))[0] == 0

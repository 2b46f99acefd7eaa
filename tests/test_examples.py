"""Every example runs as a user would run it, made short by its own flags."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *flags: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(EXAMPLES / name), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_page(path):
    assert len(path.read_text().splitlines()) < 60


def test_train_atari_then_predict_loop(tmp_path):
    trained = run("train_atari.py", "--preset", "tiny", "--total-timesteps", "60", "--games", "1", folder=tmp_path)
    assert "eval/" in trained and "over 1 games" in trained
    played = run("predict_loop.py", "--run", "atari_agent.zip", "--max-steps", "50", folder=tmp_path)
    assert "after 50 steps" in played


def test_custom_env(tmp_path):
    assert "over 20 episodes" in run("custom_env.py", "--total-timesteps", "80", "--tiny", folder=tmp_path)

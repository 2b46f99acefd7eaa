"""Every example runs as a user would run it, made short by its own flags."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iris_gym import IRISAgent, IRISConfig

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *flags: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(EXAMPLES / name), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A saved agent that has learned a little of everything."""
    path = tmp_path_factory.mktemp("trained") / "agent.zip"
    config = IRISConfig.tiny(transformer_timesteps=10, eval_temperature=1.0)
    IRISAgent("MinAtar/Breakout-v1", config, seed=0, device="cpu").learn(80).save(path)
    return path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_page(path):
    assert len(path.read_text().splitlines()) < 80


def test_train_atari_then_predict_loop(tmp_path):
    trained = run("train_atari.py", "--preset", "tiny", "--total-timesteps", "60", "--games", "1", folder=tmp_path)
    assert "eval/" in trained and "over 1 games" in trained
    played = run("predict_loop.py", "--run", "atari_agent.zip", "--max-steps", "50", folder=tmp_path)
    assert "after 50 steps" in played


def test_custom_env(tmp_path):
    assert "over 20 episodes" in run("custom_env.py", "--total-timesteps", "80", "--tiny", folder=tmp_path)


@pytest.mark.slow
def test_sb3_ppo_in_dream(trained, tmp_path):
    flags = "--total-timesteps 256 --num-envs 4 --games 2".split()
    assert "real MinAtar/Breakout-v1: return" in run(
        "sb3_ppo_in_dream.py", "--run", str(trained), *flags, folder=tmp_path
    )
    assert (tmp_path / "ppo_from_dream.zip").exists()


@pytest.mark.slow
def test_evaluate_ppo(tmp_path):
    """Trained in one process, evaluated by its name in another."""
    run("evaluate_ppo.py", "--total-timesteps", "128", "--env", "MinAtar/Breakout-v1", folder=tmp_path)
    flags = "--env MinAtar/Breakout-v1 --episodes 2 --max-steps 50".split()
    command = [sys.executable, "-m", "iris_gym", "evaluate", "--agent", "evaluate_ppo:act", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{EXAMPLES}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["protocol"]["agent"] == "evaluate_ppo:act"


@pytest.mark.slow
def test_recurrent_ppo_in_dream(trained, tmp_path):
    flags = "--total-timesteps 256 --num-envs 4".split()
    answer = run("recurrent_ppo_in_dream.py", "--run", str(trained), *flags, folder=tmp_path)
    assert "learned from 256 imagined steps" in answer


@pytest.mark.slow
def test_torch_ppo_in_dream(trained, tmp_path):
    flags = "--iterations 2 --num-envs 8 --steps 20".split()
    answer = run("torch_ppo_in_dream.py", "--checkpoint", str(trained), *flags, folder=tmp_path)
    assert "iteration 2: mean imagined reward" in answer


@pytest.mark.slow
def test_torchrl_in_dream(trained, tmp_path):
    assert "320 imagined steps" in run("torchrl_in_dream.py", "--run", str(trained), folder=tmp_path)


@pytest.mark.slow
def test_record_dream(trained, tmp_path):
    run("record_dream.py", "--run", str(trained), "--max-steps", "20", folder=tmp_path)
    written = {path.relative_to(tmp_path / "media").as_posix() for path in (tmp_path / "media").rglob("*.*")}
    assert written == {
        "side-by-side_0.mp4",
        "side-by-side_0.png",
        "dream_0.mp4",
        "dream_0.png",
        "random/rl-video-episode-0.mp4",
    }


@pytest.mark.slow
def test_bf16_agreement(tmp_path):
    IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(), device="cpu", run_dir=tmp_path / "run").learn(60)
    answer = run("bf16_agreement.py", "--run", "run", "--rows", "8", folder=tmp_path)
    assert [line.split()[0] for line in answer.splitlines()][:2] == ["encode", "next_token"]

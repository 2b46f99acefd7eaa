"""With the real package, offline: nothing leaves the machine."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Image, Logger, Video

from iris_gym import UsageError
from iris_gym.cli import main
from iris_gym.training.wandb_output import STEP, WandbOutput


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.slow
def test_numbers_pictures_and_films_arrive_and_the_run_goes_on(offline, tmp_path):
    output = WandbOutput(tmp_path, {"vocab_size": 32})
    logger = Logger(str(tmp_path), [output])
    logger.record("loss", 1.5)
    logger.record("hidden", 2.0, exclude="wandb")
    logger.record("words", "not for a chart")
    logger.record("picture", Image(np.zeros((8, 6, 3), np.uint8), "HWC"))
    logger.record("film", Video(torch.zeros(1, 3, 3, 16, 16, dtype=torch.uint8), 15))
    logger.dump(40)
    found = dict(output.run.summary)
    assert (found["loss"], found[STEP]) == (1.5, 40)
    assert (found["picture"]["width"], found["picture"]["height"]) == (6, 8)
    assert found["film"]["_type"] == "video-file"
    assert not {"hidden", "words"} & found.keys()
    assert output.run.config["vocab_size"] == 32 and output.run.project == "iris-gym"
    first = output.run.id
    logger.close()
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/videos/*.gif"))

    again = WandbOutput(tmp_path, {})
    assert again.run.id == first == (tmp_path / "wandb_id").read_text().strip()
    again.close()


@pytest.mark.slow
def test_the_flag(monkeypatch, tmp_path):
    """What `train` hands to the service, seen by a stand-in for its client."""
    seen: list[dict] = []

    class Run:
        def define_metric(self, name: str, step_metric: str) -> None:
            assert (name, step_metric) == ("*", STEP)

        def log(self, values: dict) -> None:
            seen.append(values)

        def finish(self) -> None:
            seen.append({})

    class Client:
        Error = RuntimeError
        arguments: list[dict] = []

        @classmethod
        def init(cls, **arguments):
            cls.arguments.append(arguments)
            return Run()

        @staticmethod
        def Image(picture):
            return picture

        @staticmethod
        def Video(film, fps, format):
            return film, fps, format

    monkeypatch.setitem(sys.modules, "wandb", Client)
    run = tmp_path / "run"
    flags = ["--env", "MinAtar/Breakout-v1", "--preset", "tiny", "--run-dir", str(run), "--seed", "0", "--wandb"]
    flags += ["--final-episodes", "0"]
    for more in (["--total-timesteps", "60"], ["--total-timesteps", "80", "--resume"]):
        with pytest.raises(SystemExit) as end:
            main(["train", *flags, *more])
        assert end.value.code == 0
    first, second = Client.arguments
    assert first["id"] == second["id"] and first["config"]["vocab_size"] == 32
    assert (first["resume"], first["dir"], first["name"]) == ("allow", str(run), "run")
    logged = [values for values in seen if values]
    assert [values[STEP] for values in logged] == [20, 40, 60, 80]
    assert logged[1]["media/reconstructions"].shape == (128, 16 * 64, 3)
    assert logged[1]["media/dream_film"][0].shape[1:] == (3, 64, 192)
    assert isinstance(logged[1]["autoencoder/loss"], float)


def test_without_the_package_nothing_is_begun(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r'run: pip install "iris-gym\[wandb\]"'):
        WandbOutput(tmp_path, {})
    with pytest.raises(SystemExit) as end:
        main(["train", "--env", "MinAtar/Breakout-v1", "--preset", "tiny", "--run-dir", str(tmp_path / "r"), "--wandb"])
    assert end.value.code == 2 and "wandb=True needs wandb" in capsys.readouterr().err
    assert not Path(tmp_path / "r").exists()


def test_a_service_that_takes_no_run_is_one_line(monkeypatch, tmp_path):
    class Client:
        Error = RuntimeError

        @staticmethod
        def init(**arguments):
            raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", Client)
    with pytest.raises(UsageError, match=r"cannot begin: api_key not configured \(no-tty\); run wandb login, or set"):
        WandbOutput(tmp_path, {})


@pytest.mark.slow
def test_a_process_ends_in_peace(offline, tmp_path):
    """The service ends with the process; what is still to be written has to come before."""
    flags = "--env MinAtar/Breakout-v1 --preset tiny --total-timesteps 60 --seed 0 --wandb".split()
    flags += ["--final-episodes", "0", "--run-dir"]
    command = [sys.executable, "-m", "iris_gym", "train", *flags, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stderr == ""

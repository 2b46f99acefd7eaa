"""Weights & Biases as an output of Stable-Baselines3's logger."""

import atexit
import os
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Figure, HParam, Image, KVWriter, Video

from iris_gym.errors import UsageError, one_line

PROJECT = "iris-gym"
STEP = "global_step"
"""The axis of every chart. The service's own step may not go back, as a run's does that goes on from a checkpoint."""


class WandbOutput(KVWriter):
    """Forwards numbers, pictures and films to a run of Weights & Biases; the same one as before, where there was one.

    What the environment variables of wandb say holds: `WANDB_MODE=offline` keeps everything in `folder`,
    `WANDB_PROJECT` and `WANDB_ENTITY` say where it goes otherwise.

    Args:
        folder: of the run; the id of the run at the service is kept in `wandb_id` there.
        config: hyperparameters to show.

    Raises:
        UsageError: wandb is not installed, or its service takes no run.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.wandb = check_wandb()
        self._closed = False
        try:
            self.run = self.wandb.init(
                project=_environment_or(PROJECT),
                id=_run_id(folder / "wandb_id"),
                resume="allow",
                name=folder.name,
                dir=str(folder),
                config=config,
            )
        except self.wandb.Error as error:
            raise UsageError(
                f"wandb=True cannot begin: {one_line(error)}; run wandb login, or set WANDB_MODE=offline"
            ) from error
        self.run.define_metric("*", step_metric=STEP)
        atexit.register(self.close)  # now, to come before wandb ends the service that it writes to

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        values = {
            name: self._converted(value)
            for name, value in key_values.items()
            if "wandb" not in (key_excluded.get(name) or ())
        }
        self.run.log({STEP: step} | {name: value for name, value in values.items() if value is not None})

    def close(self) -> None:
        atexit.unregister(self.close)
        if not self._closed:
            self._closed = True
            self.run.finish()

    def _converted(self, value: Any) -> Any:
        """As the service takes it; None of what it has no chart for."""
        if isinstance(value, Image):
            return self.wandb.Image(np.asarray(value.image))
        if isinstance(value, Video):
            frames = value.frames[0].cpu().numpy()  # (T, 3, H, W) uint8
            return self.wandb.Video(frames, fps=round(value.fps), format="gif")
        if isinstance(value, Figure):
            return self.wandb.Image(value.figure)
        if isinstance(value, str | HParam) or not np.isscalar(value):
            return None
        return float(value)  # pyright: ignore[reportArgumentType]


def check_wandb() -> ModuleType:
    """The package. Raises `UsageError` where it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise UsageError('wandb=True needs wandb; run: pip install "iris-gym[wandb]"') from error
    return wandb


def _environment_or(project: str) -> str | None:
    """None lets wandb read its own environment variable."""
    return None if "WANDB_PROJECT" in os.environ else project


def _run_id(path: Path) -> str:
    """The id in a file; a new one where there is none yet."""
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8] + "\n")
    return path.read_text().strip()

"""`iris-gym record`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tqdm import tqdm

from iris_gym.commands.common import say
from iris_gym.recording import Source, record


@dataclass
class Record:
    """Write videos of the agent in its dream, in the game, or of both side by side, each with a picture strip."""

    run_: Annotated[Path, tyro.conf.arg(name="run")]
    """A run folder or a saved zip."""
    source: Source = "side-by-side"
    """dream, real, or side-by-side: real frames, their reconstructions, and the dream that takes the same actions."""
    episodes: int = 1
    """Videos to write."""
    out: Path | None = None
    """The folder to write to; None: media/ of the run, or beside the zip."""
    max_steps: int = 1000
    """Steps after which an episode is cut."""
    temperature: float | None = None
    """Divides the policy's logits; 0 is greedy. None: the agent's eval_temperature."""
    seed: int = 0
    """Of the first episode; episode i has seed + i."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self, console: Console) -> int:
        options = {name: value for name, value in vars(self).items() if name != "run_"}
        with tqdm(total=self.episodes, unit="video", file=sys.stderr, disable=None) as bar:
            paths = record(self.run_, **options, on_episode=lambda _: bar.update())
        say(console, "written: " + ", ".join(map(str, paths)))
        return 0

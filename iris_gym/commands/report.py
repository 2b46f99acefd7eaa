"""`iris-gym report`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tqdm import tqdm

from iris_gym.agent import IRISAgent
from iris_gym.commands.common import say, set_threads
from iris_gym.reporting import (
    DEFAULT_EPISODES,
    DEFAULT_HORIZON,
    DEFAULT_STARTS,
    MAX_STEPS,
    STAGES,
    default_page,
    report,
)


@dataclass
class Report:
    """Hold the dream against real games that training never saw; write a page and a JSON file with all figures."""

    run_: Annotated[Path, tyro.conf.arg(name="run")]
    """A run folder or a saved zip."""
    env: str | None = None
    """Environment id. None: the run's."""
    episodes: int = DEFAULT_EPISODES
    """Real games to play."""
    out: Path | None = None
    """The page to write, *.html; the JSON lies beside it. None: report.html in the run, or NAME.report.html."""
    starts: int = DEFAULT_STARTS
    """Frames of the games, at most, from which a dream starts."""
    horizon: int = DEFAULT_HORIZON
    """Steps for which each dream is compared."""
    context: int = 1
    """Real frames that a dream has read when it starts; 1 in training."""
    temperature: float = 1.0
    """Of the policy, in the games and in its dreams; 1 in training."""
    max_steps: int = MAX_STEPS
    """Steps after which a game is cut."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self, console: Console) -> int:
        agent = IRISAgent.load(self.run_, device=self.device)
        set_threads(None, agent.config)
        options = {name: value for name, value in vars(self).items() if name not in ("run_", "out", "device")}
        with tqdm(total=STAGES, unit="stage", file=sys.stderr, disable=None) as bar:

            def show(stage: str) -> None:
                bar.set_description(stage)
                bar.update()

            path = report(agent, out=self.out or default_page(self.run_), **options, on_stage=show)
        for warning in json.loads(path.with_suffix(".json").read_text())["warnings"]:
            say(console, f"careful: {warning['message']}")
        say(console, f"written: {path} and {path.with_suffix('.json').name}")
        return 0

"""`iris-gym bench`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from tqdm import tqdm

from iris_gym.assembly import choose_device
from iris_gym.benchmark import PHASES, PhaseName, benchmark
from iris_gym.benchmark.check import CHECKED, check_projection
from iris_gym.benchmark.scaling import SCALES, scaling
from iris_gym.benchmark_table import check_table, read_result, remarks, scaling_markdown, table, write_result
from iris_gym.commands.common import Preset, say, set_threads
from iris_gym.config import IRISConfig, preset_name
from iris_gym.errors import UsageError
from iris_gym.training.run_folder import check_output


@dataclass
class Bench:
    """Measure how fast every phase of a run is on this machine, and project how long a full run takes.

    Networks have learned nothing. Every hyperparameter is a flag, as of train.
    """

    hyperparameters: Annotated[IRISConfig, tyro.conf.arg(name="")]
    preset: Preset = "auto"
    """Where the hyperparameters start from; auto is default on a GPU and small elsewhere."""
    config: Path | None = None
    """A JSON or YAML file with any of the hyperparameters."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Path | None = None
    """A file to write all figures to."""
    batch: int | None = None
    """Rows of every phase but collect, instead of the preset's; no full run is projected then."""
    only: tuple[PhaseName, ...] = ()
    """Phases to measure; without it all."""
    compare: Path | None = None
    """A file that --json wrote; shows how many times as fast this is."""
    repeats: int = 5
    """Timings of each phase, after one to warm up."""
    profile: int = 0
    """How many of the operations that take longest to show of each phase."""
    threads: int | None = None
    """CPU threads; None: as of train."""

    scaling: bool = False
    """Instead: how time and memory grow with batch, horizon, context and replay, as Markdown. Takes 1.3 GB of disk."""
    check_epochs: int = 0
    """Instead: project so many epochs, train them, and compare; the last that collect, with every component learning.
    Takes 1.3 GB of disk."""

    def run(self, console: Console) -> int:
        other = read_result(self.compare) if self.compare else None
        self._check_modes()
        if self.json:
            check_output("json", self.json)
        set_threads(self.threads, self.hyperparameters)
        if self.scaling:
            result = self._scale(console)
        elif self.check_epochs:
            result = self._check_projection(console)
        else:
            result = self._measure(console, other)
        if self.json:
            write_result(self.json, result)
            say(console, f"written to {self.json}")
        return 0

    def _check_modes(self) -> None:
        if self.scaling and self.check_epochs:
            raise UsageError(f"scaling=True and check_epochs={self.check_epochs} are two questions; ask one at a time")
        for name in ("batch", "only", "compare", "profile"):
            if getattr(self, name) and (self.scaling or self.check_epochs):
                mode = "scaling" if self.scaling else "check_epochs"
                raise UsageError(f"{name}={getattr(self, name)!r} has no meaning with {mode}; leave it out")

    def _measure(self, console: Console, other: dict[str, Any] | None) -> dict[str, Any]:
        with self._bar(len(self.only or PHASES), "phase") as bar:
            result = benchmark(
                self.hyperparameters,
                preset=self._preset,
                device=self.device,
                only=self.only,
                batch=self.batch,
                repeats=self.repeats,
                profile=self.profile,
                on_phase=lambda _: bar.update(),
            )
        console.print(table(result, other))
        for remark in remarks(result, other):
            say(console, remark)
        return result

    def _scale(self, console: Console) -> dict[str, Any]:
        with self._bar(sum(map(len, SCALES.values())), "size") as bar:
            result = scaling(
                self.hyperparameters,
                preset=self._preset,
                device=self.device,
                repeats=self.repeats,
                on_size=lambda _: bar.update(),
            )
        say(console, scaling_markdown(result))
        return result

    def _check_projection(self, console: Console) -> dict[str, Any]:
        with self._bar(len(CHECKED) + self.check_epochs + 1, "part") as bar:
            check = check_projection(
                self.hyperparameters,
                self.check_epochs,
                device=self.device,
                repeats=self.repeats,
                on_part=lambda _: bar.update(),
            )
        console.print(check_table(check))
        return check

    @property
    def _preset(self) -> str:
        return preset_name(self.preset, choose_device(self.device).type)

    @staticmethod
    def _bar(total: int, unit: str) -> "tqdm[Any]":
        return tqdm(total=total, unit=unit, file=sys.stderr, disable=None)

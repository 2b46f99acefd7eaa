"""`iris-gym bench`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tqdm import tqdm

from iris_gym.assembly import choose_device
from iris_gym.benchmark import PHASES, PhaseName, benchmark
from iris_gym.benchmark_table import read_result, remarks, table, write_result
from iris_gym.commands.common import Preset, say, set_threads
from iris_gym.config import IRISConfig, preset_name


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
    threads: int | None = None
    """CPU threads; None: as of train."""

    def run(self, console: Console) -> int:
        other = read_result(self.compare) if self.compare else None
        set_threads(self.threads, self.hyperparameters)
        with tqdm(total=len(self.only or PHASES), unit="phase", file=sys.stderr, disable=None) as bar:
            result = benchmark(
                self.hyperparameters,
                preset=preset_name(self.preset, choose_device(self.device).type),
                device=self.device,
                only=self.only,
                batch=self.batch,
                repeats=self.repeats,
                on_phase=lambda _: bar.update(),
            )
        console.print(table(result, other))
        for remark in remarks(result, other):
            say(console, remark)
        if self.json:
            write_result(self.json, result)
            say(console, f"written to {self.json}")
        return 0

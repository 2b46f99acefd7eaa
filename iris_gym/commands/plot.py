"""`iris-gym plot`."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from iris_gym.commands.common import say
from iris_gym.errors import UsageError
from iris_gym.evaluation.curves import choose_metrics, read_progress
from iris_gym.evaluation.figures import FORMATS, check_figures, curves_figure, save_figure
from iris_gym.training.run_folder import check_output


@dataclass
class Plot:
    """Draw the learning curves of runs: returns, losses and accuracies; seeds of one environment are averaged."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    metrics: tuple[str, ...] = ()
    """Columns of progress.csv, or patterns of such ("world_model/*"). None: the usual ones."""
    out: Path = Path("learning_curves.png")
    """The file to write: .png, .pdf or .svg."""

    def run(self, console: Console) -> int:
        if not self.runs:
            raise UsageError("runs=() hold nothing to draw; give run folders")
        if self.out.suffix not in FORMATS:
            raise UsageError(f"out={str(self.out)!r} must end in one of {', '.join(FORMATS)}")
        check_figures()
        check_output("out", self.out)
        logged = [read_progress(run) for run in self.runs]
        save_figure(self.out, curves_figure(logged, choose_metrics(logged, self.metrics)))
        say(console, f"written: {self.out}")
        return 0

"""`iris-gym scores`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from iris_gym.commands.common import say
from iris_gym.evaluation.atari_100k import published_agents
from iris_gym.evaluation.curves import read_progress
from iris_gym.evaluation.figures import (
    RETURNS,
    aggregate_figure,
    check_figures,
    games_figure,
    profile_figure,
    returns_figure,
    save_figure,
)
from iris_gym.evaluation.files import write_atomically
from iris_gym.evaluation.score_table import ScoreTable, read_run, score_table
from iris_gym.training.run_folder import check_output, check_writable


@dataclass
class Scores:
    """Collect evaluated runs into the Atari 100k table, beside the published agents, with bootstrap intervals."""

    runs: tuple[Path, ...] = ()
    """Run folders, saved zips or files of scores, after iris-gym evaluate."""
    published: bool = True
    """Show IRIS, SPR, DrQ(eps), SimPLe and CURL as published, on the same games."""
    json: Path | None = None
    """Write the table here as JSON: by agent, mean, median, iqm, optimality_gap, superhuman, at_least_human, their
    intervals and every game's score."""
    csv: Path | None = None
    """Write the aggregates here as CSV."""
    markdown: Path | None = None
    """Write what is printed here."""
    figures: Path | None = None
    """A folder for aggregates.png, games.png, profiles.png and, of run folders with logs, learning_curves.png."""

    def run(self, console: Console) -> int:
        self._check()
        table = score_table([read_run(path) for path in self.runs], published_agents() if self.published else [])
        text = table.to_markdown()
        say(console, text)
        written = []
        for path, content in ((self.json, table.to_json), (self.csv, table.to_csv), (self.markdown, lambda: text)):
            if path is not None:
                write_atomically(path, content().encode())
                written.append(path)
        if self.figures is not None:
            written += _draw(self.figures, table, self.runs)
        if written:
            say(console, "written: " + ", ".join(map(str, written)))
        return 0

    def _check(self) -> None:
        for name in ("json", "csv", "markdown"):
            path = getattr(self, name)
            if path is not None:
                check_output(name, path)
        if self.figures is not None:
            check_figures()
            check_writable("figures", self.figures)


def _draw(folder: Path, table: ScoreTable, runs: Sequence[Path]) -> list[Path]:
    drawn = {
        "aggregates": aggregate_figure(table.agents),
        "games": games_figure(table.agents),
        "profiles": profile_figure(table.agents),
    }
    logged = [read_progress(run) for run in runs if (run / "logs" / "progress.csv").is_file()]
    if any(name in run.columns for run in logged for name in RETURNS):
        drawn["learning_curves"] = returns_figure(logged)
    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{name}.png")
        save_figure(paths[-1], figure)
    return paths

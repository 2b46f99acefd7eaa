"""The Atari-100k table: runs beside the published agents, as JSON, CSV and Markdown."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iris_gym.errors import UsageError
from iris_gym.evaluation.atari_100k import STATISTICS, AgentScores, aggregates, intervals
from iris_gym.evaluation.evaluate import MAX_STEPS
from iris_gym.evaluation.scores import atari_game, reference_scores
from iris_gym.untrusted.documents import parse_json, read_document, shown
from iris_gym.untrusted.files import usable_path

OWN_NAME = "iris_gym"
"""What agents of this package are called in the table; `IRIS` is the published one."""

HEADINGS = {
    "mean": "mean",
    "median": "median",
    "iqm": "IQM",
    "optimality_gap": "optimality gap",
    "superhuman": "> human",
    "at_least_human": "≥ human",
}
COUNTS = ("superhuman", "at_least_human")

TEMPERATURE = 0.5
"""At which the published agents were evaluated."""


@dataclass(frozen=True, slots=True)
class Run:
    """An evaluated run."""

    source: Path
    agent: str
    game: str
    score: float
    episodes: int
    protocol: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Agents on the same games, and what a reader has to know of them."""

    games: Sequence[str]
    agents: Sequence[AgentScores]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """By agent, the `STATISTICS`, their 95% `intervals` (None where a game has a single run), and every game."""
        return {agent.name: _agent_dict(agent) for agent in self.agents}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A row an agent: name, games, runs, and each statistic with its interval."""
        text = io.StringIO()
        limits = [f"{name}{end}" for name in STATISTICS for end in ("", "_low", "_high")]
        writer = csv.DictWriter(text, ["agent", "games", "runs", *limits], lineterminator="\n")
        writer.writeheader()
        for name, found in self.to_dict().items():
            bounds = found["intervals"] or {}
            row = {"agent": name, "games": len(self.games), "runs": _count_runs(found)}
            for statistic in STATISTICS:
                low, high = bounds.get(statistic, ("", ""))
                row |= {statistic: found[statistic], f"{statistic}_low": low, f"{statistic}_high": high}
            writer.writerow(row)
        return text.getvalue()

    def to_markdown(self) -> str:
        """A table of aggregates, the notes, and a table of each game's mean score."""
        found = self.to_dict()
        lines = _markdown(["agent", "runs", *HEADINGS.values()], [_row(name, found[name]) for name in found])
        lines += ["", _legend(len(self.games)), *(f"- {note}" for note in self.notes), ""]
        return "\n".join(lines + self._game_lines(found)) + "\n"

    def _game_lines(self, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
        table = reference_scores()
        rows = [
            [game, _plain(table["random"][game]), _plain(table["human"][game])]
            + [_plain(agent["games"][game]["score"]) for agent in found.values()]
            for game in self.games
        ]
        return _markdown(["game", "random", "human", *found], rows)


def read_run(path: Path) -> Run:
    """The scores of a run folder, of a saved zip, or of a file that `iris-gym evaluate` wrote.

    Raises:
        UsageError: there are none, or they are of no game of Atari 100k.
    """
    file = _scores_file(path)
    if not os.path.isfile(file):
        raise UsageError(f"runs: {str(path)!r} has no scores ({file.name}); run: iris-gym evaluate --run {path}")
    content = read_document(file, f"runs: {str(file)!r}")
    try:
        scores = parse_json(content)
        game = atari_game(scores["env"])
        run = Run(
            path,
            _agent_name(scores["protocol"]),
            str(game),
            float(scores["mean"]),
            len(scores["episodes"]),
            scores["protocol"],
        )
        numbers = [scores["protocol"].get(name) for name in ("env_steps_trained", "max_steps", "temperature")]
        if not math.isfinite(run.score) or not all(isinstance(number, int | float | None) for number in numbers):
            raise ValueError("a score or a part of the protocol that is no number")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(f"runs: {str(file)!r} is no file of scores as iris-gym evaluate writes it") from error
    if game not in reference_scores()["games"]:
        raise UsageError(
            f"runs: {str(path)!r} is of {shown(scores['env'])}, which is none of the 26 games of Atari 100k"
        )
    return run


def score_table(runs: Sequence[Run], published: Sequence[AgentScores]) -> ScoreTable:
    """Runs, grouped by agent and game, beside published agents, all on the games that every agent of the runs has.

    Raises:
        UsageError: there is nobody to show, a run is there twice, or agents have no game in common.
    """
    agents = _grouped(runs)
    if not agents and not published:
        raise UsageError("runs=() leave the table empty without --published; give runs or published agents")
    all_games = reference_scores()["games"]
    games = [game for game in all_games if all(game in agent.runs for agent in agents)]
    if not games:
        raise UsageError(f"runs: {', '.join(agent.name for agent in agents)} have no game in common")
    shown = [agent.on(games) for agent in (*agents, *published)]
    return ScoreTable(games, shown, [*_coverage(agents, games), *_remarks(runs)])


def _agent_dict(agent: AgentScores) -> dict[str, Any]:
    normalized = agent.normalized()
    bounds = intervals(agent)
    return aggregates(agent) | {
        "intervals": None if bounds is None else {name: list(limits) for name, limits in bounds.items()},
        "games": {
            game: {
                "runs": len(scores),
                "score": float(np.mean(agent.runs[game])),
                "human_normalized": float(scores.mean()),
            }
            for game, scores in normalized.items()
        },
    }


def _scores_file(path: Path) -> Path:
    if usable_path("runs", path).is_dir():
        return path / "scores.json"
    return path if path.suffix == ".json" else path.with_suffix(".scores.json")


def _agent_name(protocol: Mapping[str, Any]) -> str:
    name = str(protocol.get("agent", "IRIS"))
    return OWN_NAME if name == "IRIS" else name


def _grouped(runs: Sequence[Run]) -> list[AgentScores]:
    sources = [run.source.resolve() for run in runs]
    twice = [run.source for run, source in zip(runs, sources, strict=True) if sources.count(source) > 1]
    if twice:
        raise UsageError(f"runs: {str(twice[0])!r} is given twice; a run counts once")
    grouped: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        grouped.setdefault(run.agent, {}).setdefault(run.game, []).append(run.score)
    return [AgentScores(name, games) for name, games in grouped.items()]


def _coverage(agents: Sequence[AgentScores], games: Sequence[str]) -> list[str]:
    """What is not the whole table."""
    every = reference_scores()["games"]
    notes = []
    if len(games) < len(every):
        notes.append(
            f"Of the {len(every)} games only {len(games)} can be compared: {', '.join(games)}. All figures, those of "
            "published agents too, are over these alone, and none is a result on Atari 100k."
        )
    for agent in agents:
        left_out = [game for game in agent.runs if game not in games]
        if left_out:
            notes.append(f"{agent.name} has also played {', '.join(left_out)}, which others have not: left out.")
        single = [game for game in games if len(agent.runs[game]) < 2]
        if single:
            notes.append(f"{agent.name} has a single run of {', '.join(single)}: no interval can be given.")
    return notes


def _remarks(runs: Sequence[Run]) -> list[str]:
    """In what runs differ from the benchmark, or from one another."""
    deviations: dict[str, list[str]] = {}
    for run in runs:
        for remark in _deviations(run):
            deviations.setdefault(remark, []).append(str(run.source))
    notes = [f"{remark}: {', '.join(sources)}." for remark, sources in deviations.items()]
    for name in ("deterministic", "preprocessing"):
        values = sorted({str(run.protocol[name]) for run in runs if run.protocol.get(name) is not None})
        if len(values) > 1:
            notes.append(f"Runs were evaluated with different {name}: {', '.join(values)}.")
    return notes


def _deviations(run: Run) -> Iterable[str]:
    trained = run.protocol.get("env_steps_trained")
    if trained is None:
        yield "The number of steps trained is not known"
    elif trained != 100_000:
        yield f"Trained for {trained:,} steps, not 100,000"
    if not run.protocol.get("atari_100k", True):
        yield "Not played under the Atari 100k protocol"
    if run.episodes < 100:
        yield f"Evaluated on {run.episodes} episodes, not 100"
    max_steps, temperature = run.protocol.get("max_steps"), run.protocol.get("temperature")
    if max_steps is not None and max_steps < MAX_STEPS:
        yield f"Games were cut after {max_steps:,} steps, not {MAX_STEPS:,}"
    if temperature is not None and temperature != TEMPERATURE:
        yield f"Evaluated at temperature {temperature:g}, not {TEMPERATURE:g}"


def _row(name: str, found: Mapping[str, Any]) -> list[str]:
    return [name, str(_count_runs(found)), *(_cell(statistic, found) for statistic in STATISTICS)]


def _count_runs(found: Mapping[str, Any]) -> int:
    return sum(game["runs"] for game in found["games"].values())


def _cell(statistic: str, found: Mapping[str, Any]) -> str:
    form = "{:.0f}" if statistic in COUNTS else "{:.3f}"
    text = form.format(found[statistic])
    if found["intervals"] is None:
        return text
    low, high = (form.format(limit) for limit in found["intervals"][statistic])
    return f"{text} [{low}, {high}]"


def _legend(games: int) -> str:
    return (
        f"Human-normalised scores over {games} game{'s' * (games > 1)}, with 95% intervals (bootstrap over runs, "
        "stratified by game). "
        "Mean and median are over each game's mean; IQM and optimality gap (less is better) over all runs. "
        "The last columns count games whose mean is above a human's, and at least a human's. "
        f"Runs of this package are {OWN_NAME}; IRIS is the published agent."
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _plain(score: float) -> str:
    return f"{score:,.1f}"

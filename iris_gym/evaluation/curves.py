"""Learning curves, from the `progress.csv` of run folders."""

import csv
import fnmatch
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import parse_json, read_document

LOG_LIMIT = 100_000_000
"""Bytes of the longest `progress.csv` that is read; an epoch takes some hundreds."""

STEPS, EPOCH = "time/total_timesteps", "time/epoch"

IMAGINED_RETURN, REAL_RETURN = "actor_critic/imagined_return", "rollout/real_return"
"""The signs of the rewards over as many steps, in dreams and in the environment: to be looked at together."""

USUAL_METRICS = (
    "rollout/ep_rew_mean",
    "evaluation/mean_return",
    IMAGINED_RETURN,
    REAL_RETURN,
    "autoencoder/loss",
    "world_model/loss",
    "actor_critic/loss",
    "autoencoder/reconstruction_loss",
    "world_model/token_accuracy",
    "world_model/reward_accuracy",
    "codebook/perplexity",
    "actor_critic/entropy",
    "actor_critic/value",
)
"""Returns, losses and accuracies, as a picture shows them where nobody asks for others."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run wrote while it learned."""

    source: Path
    config: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]  # by metric, (rows,) float64, NaN where nothing was recorded

    @property
    def env(self) -> str:
        return str(self.config["env"])

    def curve(self, metric: str, clock: str) -> tuple[np.ndarray, np.ndarray]:
        """The metric over the column `clock`, (n,) each, where it was recorded; empty where it never was."""
        times, values = self.columns[clock], self.columns.get(metric, np.empty(0))
        if not len(values):
            return np.empty(0), np.empty(0)
        recorded = np.isfinite(times) & np.isfinite(values)
        return times[recorded], values[recorded]


NAMED_DIFFERENCES = 3
"""Hyperparameters at most that a curve's name tells; two presets differ in dozens."""


@dataclass(frozen=True, slots=True)
class MeanCurve:
    """Several runs of one setting over the part that all of them have."""

    times: np.ndarray  # (n,)
    mean: np.ndarray  # (n,)
    spread: np.ndarray  # (n,), the sample's standard deviation over runs; zeros of one run


def read_progress(run: Path) -> Progress:
    """Read a run folder. Raises `UsageError` where there is no run, or nothing was logged yet."""
    config, log = run / "config.json", run / "logs" / "progress.csv"
    if not os.path.isfile(config):
        raise UsageError(f"run={str(run)!r} is no run folder: it has no config.json")
    if not os.path.isfile(log):
        raise UsageError(f"run={str(run)!r} has no learning curve yet: {log.name} cannot be read")
    try:
        rows = list(
            csv.DictReader(io.StringIO(read_document(log, f"run={str(run)!r}", LOG_LIMIT).decode(), newline=""))
        )
        settings = dict(parse_json(read_document(config, f"run={str(run)!r}")))
        settings["env"] = str(settings["env"])
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(f"run={str(run)!r} has a damaged {config.name} or {log.name}: {error}") from error
    if not rows or not {STEPS, EPOCH} <= set(rows[0]):
        raise UsageError(f"run={str(run)!r} has no learning curve yet: {log.name} has no row with {STEPS} and {EPOCH}")
    names = [name for name in rows[0] if name]
    return Progress(run, settings, {name: np.array([_number(row.get(name)) for row in rows]) for name in names})


def choose_metrics(runs: Sequence[Progress], patterns: Sequence[str] = ()) -> list[str]:
    """The metrics that are to be shown: `USUAL_METRICS`, or all that fit a pattern such as `world_model/*`.

    Raises:
        UsageError: a pattern fits nothing that was recorded, or none of the usual ones was.
    """
    recorded = sorted({name for run in runs for name, values in run.columns.items() if np.isfinite(values).any()})
    if not patterns:
        chosen = [name for name in USUAL_METRICS if name in recorded]
        if not chosen:
            raise UsageError(f"metrics: none of the usual ones was recorded, but these were: {', '.join(recorded)}")
        return chosen
    chosen = []
    for pattern in patterns:
        fitting = fnmatch.filter(recorded, pattern)
        if not fitting:
            raise UsageError(f"metrics: {pattern!r} fits none of those that were recorded: {', '.join(recorded)}")
        chosen += [name for name in fitting if name not in chosen]
    return chosen


def common_clock(runs: Sequence[Progress]) -> str:
    """Environment steps; epochs where a run has learned on without collecting, and steps stand still.

    Callbacks write rows of their own at the steps of an epoch, which have no epoch.
    """
    ended = (run.columns[STEPS][np.isfinite(run.columns[EPOCH])] for run in runs)
    return EPOCH if any((np.diff(steps) <= 0).any() for steps in ended) else STEPS


def mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> MeanCurve | None:
    """Mean and spread of curves (times, values), each interpolated at all times that lie within every curve."""
    curves = [(times, values) for times, values in curves if len(times)]
    if not curves:
        return None
    first, last = max(times[0] for times, _ in curves), min(times[-1] for times, _ in curves)
    times = np.unique(np.concatenate([times for times, _ in curves]))
    times = times[(times >= first) & (times <= last)]
    values = np.stack([np.interp(times, *curve) for curve in curves])
    return MeanCurve(times, values.mean(axis=0), values.std(axis=0, ddof=min(len(values) - 1, 1)))


def by_setting(runs: Sequence[Progress]) -> dict[str, list[Progress]]:
    """Runs of the same environment and hyperparameters are seeds of one curve. A name says in which they differ."""
    names = dict.fromkeys(name for run in runs for name in run.config if name != "env")
    differing = [name for name in names if len({json.dumps(run.config.get(name)) for run in runs}) > 1]
    grouped: dict[tuple[str, ...], list[Progress]] = {}
    for run in runs:
        setting = run.env, *(f"{name}={run.config.get(name)}" for name in differing)
        grouped.setdefault(setting, []).append(run)
    others = f"and {len(differing) - NAMED_DIFFERENCES} more" if len(differing) > NAMED_DIFFERENCES else ""
    named: dict[str, list[Progress]] = {}
    for (env, *values), members in grouped.items():
        name = ", ".join([env, *values[:NAMED_DIFFERENCES], *filter(None, [others])])
        named[name if name not in named else f"{name} ({len(named) + 1})"] = members
    return named


def _number(text: str | None) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return float("nan")

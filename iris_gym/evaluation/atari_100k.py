"""Aggregate scores over the games of Atari 100k, with intervals (Agarwal et al. 2021, "Deep RL at the Edge of the
Statistical Precipice").

A run's score is normalised by its game: 0 is a random player, 1 a human. rliable, the library of that publication,
cannot be imported with today's pandas; `tests/evaluation/test_atari_100k.py` holds the published figures against this.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iris_gym.evaluation.scores import reference_scores

STATISTICS = ("mean", "median", "iqm", "optimality_gap", "superhuman", "at_least_human")
"""Mean and median over the games of each game's mean over runs; the mean of the middle half of all runs; how far runs
fall short of 1 on average; the number of games whose mean over runs is above 1, and at least 1."""

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class AgentScores:
    """What an agent scored, raw."""

    name: str
    runs: Mapping[str, Sequence[float]]  # by game, the score of each training run

    def on(self, games: Iterable[str]) -> "AgentScores":
        """The same agent on some of its games."""
        return AgentScores(self.name, {game: self.runs[game] for game in games})

    def normalized(self) -> dict[str, np.ndarray]:
        """Human-normalised scores (n,) by game, in the table's order of games."""
        table = reference_scores()
        random, human = table["random"], table["human"]
        return {
            game: (np.asarray(self.runs[game], float) - random[game]) / (human[game] - random[game])
            for game in table["games"]
            if game in self.runs
        }


def published_agents() -> list[AgentScores]:
    """IRIS, SPR, DrQ(eps), SimPLe and CURL, as published."""
    return [AgentScores(name, runs) for name, runs in reference_scores()["runs"].items()]


def aggregates(agent: AgentScores) -> dict[str, float]:
    """The `STATISTICS` of an agent over all games that it has."""
    found = statistics([scores[None] for scores in agent.normalized().values()])
    return {name: _as_number(name, values[0]) for name, values in found.items()}


def intervals(agent: AgentScores, *, seed: int = 0) -> dict[str, tuple[float, float]] | None:
    """Percentile intervals of the `STATISTICS` by a bootstrap over runs, stratified by game.

    None where a game has a single run: nothing is known of how runs differ, and resampling it would feign certainty.
    """
    if any(len(runs) < 2 for runs in agent.runs.values()):
        return None
    found = statistics(resamples(agent, seed=seed))
    tails = 100 * np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {name: tuple(np.percentile(values, tails).tolist()) for name, values in found.items()}


def resamples(agent: AgentScores, *, seed: int = 0) -> list[np.ndarray]:
    """For each game, `RESAMPLES` draws (RESAMPLES, n) with replacement from its n normalised runs."""
    generator = np.random.default_rng(seed)
    scores = agent.normalized().values()
    return [runs[generator.integers(len(runs), size=(RESAMPLES, len(runs)))] for runs in scores]


def statistics(samples: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The `STATISTICS`, each (S,), of S samples of all games at once: `samples` has (S, n) runs for each game.

    Games count alike, however many runs they have.
    """
    means = np.stack([runs.mean(axis=1) for runs in samples], axis=1)
    shortfall = np.stack([np.maximum(1 - runs, 0).mean(axis=1) for runs in samples], axis=1)
    return {
        "mean": means.mean(axis=1),
        "median": np.median(means, axis=1),
        "iqm": _interquartile_mean(_evened(samples)),
        "optimality_gap": shortfall.mean(axis=1),
        "superhuman": (means > 1).sum(axis=1),
        "at_least_human": (means >= 1).sum(axis=1),
    }


def profile(samples: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """The share of runs above each threshold (T,), games counting alike: (S, T) for (S, n) runs of each game."""
    shares = [(runs[:, :, None] > thresholds).mean(axis=1) for runs in samples]
    return np.mean(shares, axis=0)


def _evened(samples: Sequence[np.ndarray]) -> np.ndarray:
    """All runs (S, N), each repeated so often that every game has the same number of them."""
    common = math.lcm(*(runs.shape[1] for runs in samples))
    return np.concatenate([runs.repeat(common // runs.shape[1], axis=1) for runs in samples], axis=1)


def _interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean (S,) of each row of (S, N) without the lowest and the highest quarter, rounded down to whole values."""
    cut = values.shape[1] // 4
    return np.sort(values, axis=1)[:, cut : values.shape[1] - cut].mean(axis=1)


def _as_number(name: str, value: Any) -> float:
    return int(value) if name in ("superhuman", "at_least_human") else float(value)

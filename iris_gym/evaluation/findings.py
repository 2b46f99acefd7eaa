"""The figures of a fidelity report: means with intervals over whole games, and warnings where the sample is small.

All that leaves here is made of dictionaries, lists, strings and numbers, ready for JSON; NaN has become None.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iris_gym.evaluation.codes import Codebook
from iris_gym.evaluation.estimates import (
    COVERAGE,
    Estimate,
    Reliability,
    cluster_mean,
    reliability,
    survival_interval,
)
from iris_gym.evaluation.fidelity import Fidelity, Steps, Strip

MIN_GAMES = 8
"""Below which an interval over games is not to be relied on."""

MIN_STARTS = 50

MIN_EVENTS = 20
"""Rewards of a sign, or ends, below which a share or a calibration of them says little."""

GAME_BINS = 20
"""Parts of a game over which the surprise is averaged."""

CLASSES = (-1, 0, 1)

Findings = dict[str, Any]


def summarise(fidelity: Fidelity, untrained: Sequence[str] = ()) -> Findings:
    """All figures of a report. `untrained` are sentences about components that never learned."""
    steps, starts = fidelity.steps, fidelity.starts
    findings = {
        "coverage": COVERAGE,
        "games": _games(fidelity),
        "starts": len(starts.starts),
        "horizon": starts.horizon,
        "context": starts.context,
        "by_horizon": {
            name: as_lists(cluster_mean(values, starts.games)) for name, values in fidelity.by_horizon.items()
        },
        "tokens": _tokens(fidelity),
        "reward": _rewards(steps),
        "end": _ends(steps),
        "survival": _survival(fidelity),
        "surprise": _surprise(steps),
        "return": _returns(fidelity),
        "codebook": _codebook(fidelity.codebook),
        "strips": {name: _strip(strip) for name, strip in fidelity.strips.items()},
    }
    findings["warnings"] = [{"about": "agent", "message": sentence} for sentence in untrained] + _warnings(findings)
    return findings


def _games(fidelity: Fidelity) -> list[dict[str, Any]]:
    games: dict[int, dict[str, Any]] = {}
    for episode in fidelity.episodes:
        game = games.setdefault(
            episode.game, {"seed": episode.seed, "episodes": 0, "steps": 0, "return": 0.0, "ended": False}
        )
        game["episodes"] += 1
        game["steps"] += len(episode)
        game["return"] += float(episode.rewards.sum())
        game["ended"] = episode.terminated
    return list(games.values())


def _tokens(fidelity: Fidelity) -> dict[str, Any]:
    """Over all real steps: the model, and what it has to beat."""
    steps = fidelity.steps
    shares = fidelity.codebook.real_counts / fidelity.codebook.real_counts.sum()
    return {
        "accuracy": as_lists(cluster_mean(steps.token_accuracy, steps.game)),
        "last_frame_kept": as_lists(cluster_mean(steps.unchanged, steps.game)),
        "commonest_share": float(shares.max()),
    }


def _rewards(steps: Steps) -> dict[str, Any]:
    guesses = steps.reward_probabilities.argmax(1) - 1
    counts = [[int(((steps.reward == real) & (guesses == guess)).sum()) for guess in CLASSES] for real in CLASSES]
    probabilities = [
        steps.reward_probabilities[steps.reward == real].mean(0).tolist() if (steps.reward == real).any() else None
        for real in CLASSES
    ]
    return {
        "classes": list(CLASSES),
        "confusion": counts,  # row: what came; column: the likeliest guess
        "probabilities": probabilities,  # row: what came; column: the mean probability that was given
        "accuracy": as_lists(cluster_mean(guesses == steps.reward, steps.game)),
        "always_zero_accuracy": float((steps.reward == 0).mean()),
        "calibration": {
            "positive": as_lists(reliability(steps.reward_probabilities[:, 2], steps.reward == 1)),
            "negative": as_lists(reliability(steps.reward_probabilities[:, 0], steps.reward == -1)),
        },
        "frequency": {
            name: {"happened": float((steps.reward == sign).mean()), "predicted": float(column.mean())}
            for name, sign, column in (
                ("positive", 1, steps.reward_probabilities[:, 2]),
                ("negative", -1, steps.reward_probabilities[:, 0]),
            )
        },
    }


def _ends(steps: Steps) -> dict[str, Any]:
    guesses = steps.end_probability > 0.5
    return {
        "count": int(steps.end.sum()),
        "confusion": [[int(((steps.end == real) & (guesses == guess)).sum()) for guess in (0, 1)] for real in (0, 1)],
        "calibration": as_lists(reliability(steps.end_probability, steps.end)),
        "frequency": {"happened": float(steps.end.mean()), "predicted": float(steps.end_probability.mean())},
    }


def _survival(fidelity: Fidelity) -> dict[str, Any]:
    games, horizon = fidelity.starts.games, fidelity.starts.horizon
    curves = {"real": fidelity.real_lifetime, "dream": fidelity.dream_lifetime}
    return {
        **{name: as_lists(survival_interval(*lived, games, horizon)) for name, lived in curves.items()},
        "ends": {name: int(ended.sum()) for name, (_, ended) in curves.items()},
    }


def _surprise(steps: Steps) -> dict[str, Any]:
    length = int(steps.game_step.max()) + 1
    edges = np.unique(np.linspace(0, length, min(GAME_BINS, length) + 1).round().astype(int))
    parts = [(steps.game_step >= low) & (steps.game_step < high) for low, high in zip(edges, edges[1:], strict=False)]
    over_the_game = [as_lists(cluster_mean(steps.nats[part], steps.game[part])) for part in parts]
    return {
        "all": as_lists(cluster_mean(steps.nats, steps.game)),
        "edges": edges.tolist(),
        "over_the_game": {name: [part[name] for part in over_the_game] for name in ("mean", "low", "high", "count")},
    }


def _returns(fidelity: Fidelity) -> dict[str, Any]:
    """Signs of rewards added up, over the starts that were watched to the horizon or to an end."""
    complete = fidelity.starts.complete
    games = fidelity.starts.games[complete]
    real = fidelity.real_rewards[complete].cumsum(1)
    dream = fidelity.dream_rewards[complete].cumsum(1)
    difference = as_lists(cluster_mean(dream - real, games))
    low, high = difference["low"][-1], difference["high"][-1]
    verdict = "unknown" if low is None else "more" if low > 0 else "less" if high < 0 else "same"
    return {
        "starts": int(complete.sum()),
        "real": as_lists(cluster_mean(real, games)),
        "dream": as_lists(cluster_mean(dream, games)),
        "difference": difference,
        "dream_promises": verdict,
        "nonzero_real_rewards": int((fidelity.real_rewards[complete] != 0).sum()),
    }


def _codebook(codebook: Codebook) -> dict[str, Any]:
    real, dream = (counts / max(counts.sum(), 1) for counts in (codebook.real_counts, codebook.dream_counts))
    known = real > 0
    entropy = float(-(real[known] * np.log(real[known])).sum())
    return {
        "codes": len(real),
        "used": int(known.sum()),
        "used_in_dreams": int((dream > 0).sum()),
        "perplexity": math.exp(entropy),
        "entropy": entropy,
        "dream_distance": float(np.abs(real - dream).sum() / 2),
        "real_shares": real.tolist(),
        "dream_shares": dream.tolist(),
    }


def _strip(strip: Strip) -> dict[str, Any]:
    names = ("error", "game", "game_step", "real_rewards", "dream_rewards", "dream_end")
    return {name: getattr(strip, name) for name in names}


def _warnings(findings: Findings) -> list[dict[str, Any]]:
    """What the sample is too small for; `about` names the part of the findings."""
    confusion = findings["reward"]["confusion"]
    counts = (
        (
            "intervals",
            "games",
            len(findings["games"]),
            MIN_GAMES,
            "the intervals, which are over games, are too narrow",
        ),
        ("by_horizon", "starts", findings["starts"], MIN_STARTS, "the curves by horizon are rough"),
        ("reward", "positive rewards", sum(confusion[2]), MIN_EVENTS, "what is said of them is chance"),
        ("reward", "negative rewards", sum(confusion[0]), MIN_EVENTS, "what is said of them is chance"),
        ("end", "ends of episodes", findings["end"]["count"], MIN_EVENTS, "the calibration of ends is chance"),
        (
            "survival",
            "ends after the starts",
            findings["survival"]["ends"]["real"],
            MIN_EVENTS,
            "the curve of real survival is rough",
        ),
        (
            "return",
            "rewards after the starts",
            findings["return"]["nonzero_real_rewards"],
            MIN_EVENTS,
            "the returns are rough",
        ),
    )
    return [
        {"about": about, "message": _too_few(what, count, wanted, therefore), "count": count, "wanted": wanted}
        for about, what, count, wanted, therefore in counts
        if count < wanted
    ]


def _too_few(what: str, count: int, wanted: int, therefore: str) -> str:
    if not count:
        return f"no {what} came: nothing is known about them"
    return f"only {count} {what} (of {wanted} wanted): {therefore}"


def as_lists(estimate: Estimate | Reliability) -> dict[str, Any]:
    """A dataclass of arrays as lists and numbers, NaN as None."""
    return {name: jsonable(getattr(estimate, name)) for name in estimate.__slots__}


def jsonable(value: Any) -> Any:
    """Arrays as lists, NaN as None, within mappings and sequences too."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    """The inverse of `jsonable` for a list of numbers: None as NaN."""
    return np.array([np.nan if value is None else value for value in values], np.float64)

"""Estimates from few and dependent samples: intervals, calibration, survival. NumPy only.

What comes from one game is not independent, so whole games are drawn when an interval is made: C clusters are games.
A sample that does not exist is NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1000
COVERAGE = 0.95
Z = 1.959964
"""The normal quantile of `COVERAGE`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and where it may lie. Each has the samples' shape but for the first axis; NaN where nothing is known."""

    mean: Floats
    low: Floats
    high: Floats
    count: NDArray[np.int64]  # samples


def cluster_mean(samples: NDArray, clusters: NDArray, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean over the first axis of `samples` (S, …), with a percentile bootstrap interval over whole clusters.

    Args:
        samples: numbers, NaN where there is none.
        clusters: (S,), the cluster of each. One cluster alone says nothing about the spread: its interval is NaN.
    """
    samples = np.asarray(samples, np.float64)
    sums, counts = _cluster_sums(samples, clusters)
    mean = _quotient(sums.sum(0), counts.sum(0))
    if len(sums) < 2:
        nothing = np.full_like(mean, np.nan)
        return Estimate(mean, nothing, nothing, counts.sum(0).astype(np.int64))
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    means = _quotient(np.tensordot(draws, sums, 1), np.tensordot(draws, counts, 1))
    low, high = _quantiles(means)
    return Estimate(mean, low, high, counts.sum(0).astype(np.int64))


def _cluster_sums(samples: NDArray, clusters: NDArray) -> tuple[Floats, Floats]:
    """Sums (C, …) of the samples that exist, and how many these are (C, …)."""
    names, index = np.unique(clusters, return_inverse=True)
    known = ~np.isnan(samples)
    sums, counts = np.zeros((len(names), *samples.shape[1:])), np.zeros((len(names), *samples.shape[1:]))
    np.add.at(sums, index, np.where(known, samples, 0.0))
    np.add.at(counts, index, known)
    return sums, counts


def _quotient(numerator: NDArray, denominator: NDArray) -> Floats:
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def _quantiles(draws: NDArray) -> tuple[Floats, Floats]:
    """The bounds of the middle `COVERAGE` of draws (R, …), of those that exist."""
    low, high = np.full(draws.shape[1:], np.nan), np.full(draws.shape[1:], np.nan)
    known = ~np.isnan(draws).all(0)
    tail = (1 - COVERAGE) / 2
    if known.any():
        low[known], high[known] = np.nanquantile(draws[:, known], [tail, 1 - tail], axis=0)
    return low, high


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted probabilities against what happened, in bins (B,) of equal width; empty bins are NaN."""

    edges: Floats  # (B + 1,)
    predicted: Floats  # (B,) mean probability in the bin
    happened: Floats  # (B,) share of the bin where the event came
    low: Floats  # (B,) Wilson interval of that share
    high: Floats
    count: NDArray[np.int64]  # (B,)
    calibration_error: float  # |predicted - happened|, averaged over the samples (Guo et al. 2017, equation 3)


def reliability(probabilities: NDArray, events: NDArray, *, bins: int = 10) -> Reliability:
    """Calibration of `probabilities` (N,) in [0, 1] for `events` (N,) bool; N may be 0."""
    probabilities, events = np.asarray(probabilities, np.float64), np.asarray(events, bool)
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    predicted = _quotient(np.bincount(which, probabilities, bins), count)
    happened = _quotient(np.bincount(which, events, bins), count)
    gaps = np.where(count > 0, np.abs(np.nan_to_num(predicted) - np.nan_to_num(happened)), 0)
    error = float((gaps * count).sum() / count.sum()) if len(events) else float("nan")
    low, high = wilson_interval(happened, count)
    return Reliability(np.linspace(0, 1, bins + 1), predicted, happened, low, high, count, error)


def wilson_interval(share: NDArray, count: NDArray) -> tuple[Floats, Floats]:
    """The interval of a share among `count` independent samples (Wilson 1927); it does not shrink to 0 at 0."""
    count = np.where(count > 0, count, np.nan)
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def survival(durations: NDArray, ended: NDArray, horizon: int) -> Floats:
    """The share (H + 1,) that lives on after 0, 1, …, H steps (Kaplan and Meier 1958).

    Args:
        durations: (S,) steps that each was watched for.
        ended: (S,) bool, whether it ended then. Otherwise it was only lost from sight, and counts up to there.
        horizon: H.
    """
    alive = np.array([(durations >= step).sum() for step in range(1, horizon + 1)], np.float64)
    ends = np.array([((durations == step) & ended).sum() for step in range(1, horizon + 1)], np.float64)
    return np.concatenate(([1.0], np.cumprod(1 - np.nan_to_num(_quotient(ends, alive)))))


def survival_interval(
    durations: NDArray, ended: NDArray, clusters: NDArray, horizon: int, *, seed: int = 0, resamples: int = 200
) -> Estimate:
    """`survival` with a bootstrap interval over whole clusters."""
    curve = survival(durations, ended, horizon)
    count = np.array([(durations >= step).sum() for step in range(horizon + 1)])
    members = [np.flatnonzero(clusters == name) for name in np.unique(clusters)]
    if len(members) < 2:
        return Estimate(curve, np.full_like(curve, np.nan), np.full_like(curve, np.nan), count)
    generator = np.random.default_rng(seed)
    curves = []
    for _ in range(resamples):
        drawn = np.concatenate([members[index] for index in generator.integers(len(members), size=len(members))])
        curves.append(survival(durations[drawn], ended[drawn], horizon))
    low, high = _quantiles(np.stack(curves))
    return Estimate(curve, low, high, count)

import numpy as np
import pytest

from iris_gym.evaluation.estimates import (
    cluster_mean,
    reliability,
    survival,
    survival_interval,
    wilson_interval,
)

NAN = float("nan")


def test_a_mean_leaves_out_what_is_missing():
    samples = np.array([[1.0, NAN], [3.0, NAN], [NAN, NAN]])
    estimate = cluster_mean(samples, np.array([0, 1, 1]))
    assert estimate.mean[0] == 2.0 and np.isnan(estimate.mean[1])
    assert estimate.count.tolist() == [2, 0]
    assert np.isnan(estimate.low[1]) and np.isnan(estimate.high[1])


def test_an_interval_is_over_clusters_and_not_over_samples():
    """A thousand equal samples in each of two games are two samples."""
    games = np.repeat([0, 1], 1000)
    estimate = cluster_mean(games.astype(float), games)
    assert (float(estimate.mean), float(estimate.low), float(estimate.high)) == (0.5, 0.0, 1.0)
    independent = cluster_mean(games.astype(float), np.arange(2000))
    assert 0.47 < independent.low < 0.49 and 0.51 < independent.high < 0.53


def test_the_interval_of_many_games_is_the_textbooks():
    samples = np.random.default_rng(0).normal(size=400)
    estimate = cluster_mean(samples, np.arange(400), resamples=4000)
    half = 1.96 * samples.std() / 20
    assert estimate.low == pytest.approx(samples.mean() - half, abs=0.01)
    assert estimate.high == pytest.approx(samples.mean() + half, abs=0.01)


def test_one_cluster_says_nothing_of_the_spread():
    estimate = cluster_mean(np.array([1.0, 2.0]), np.array([7, 7]))
    assert estimate.mean == 1.5 and np.isnan(estimate.low) and np.isnan(estimate.high)


def test_reliability_by_hand():
    probabilities = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 1.0])
    events = np.array([False, False, False, True, True, True, True])
    found = reliability(probabilities, events, bins=2)
    assert found.edges.tolist() == [0.0, 0.5, 1.0]
    assert found.count.tolist() == [4, 3]
    assert found.predicted == pytest.approx([0.1, 2.8 / 3])
    assert found.happened.tolist() == [0.25, 1.0]
    assert found.calibration_error == pytest.approx((4 * 0.15 + 3 * (1 - 2.8 / 3)) / 7)


def test_reliability_of_nothing():
    found = reliability(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(found.calibration_error) and found.count.sum() == 0 and np.isnan(found.happened).all()


# R's binom::binom.wilson
@pytest.mark.parametrize(("events", "count", "expected"), [(0, 10, (0.0, 0.2775)), (5, 10, (0.2366, 0.7634))])
def test_wilson(events, count, expected):
    low, high = wilson_interval(np.array([events / count]), np.array([count]))
    assert (low[0], high[0]) == pytest.approx(expected, abs=1e-4)


def test_survival_by_hand():
    """Of four one ends after one step; of the three left one ends after two, when another is lost from sight."""
    durations, ended = np.array([1, 2, 2, 4]), np.array([True, True, False, False])
    assert survival(durations, ended, 4) == pytest.approx([1, 0.75, 0.5, 0.5, 0.5])


def test_survival_where_nobody_is_left():
    assert survival(np.array([1, 1]), np.array([True, True]), 3).tolist() == [1, 0, 0, 0]


def test_survival_interval():
    durations, ended, games = np.array([1, 1, 3, 3]), np.array([True, True, False, False]), np.array([0, 0, 1, 1])
    found = survival_interval(durations, ended, games, 3)
    assert found.mean.tolist() == [1, 0.5, 0.5, 0.5]
    assert found.low.tolist() == [1, 0, 0, 0] and found.high.tolist() == [1, 1, 1, 1]
    assert found.count.tolist() == [4, 4, 2, 2]
    assert np.isnan(survival_interval(durations, ended, np.zeros(4), 3).low).all()


def test_a_number_that_nobody_knows():
    estimate = cluster_mean(np.full(4, NAN), np.array([0, 0, 1, 1]))
    assert np.isnan(estimate.mean) and np.isnan(estimate.low) and estimate.count == 0

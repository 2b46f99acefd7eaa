"""The aggregates of the published agents come out as published, and intervals are what they say."""

import numpy as np
import pytest

from iris_gym.evaluation.atari_100k import (
    STATISTICS,
    AgentScores,
    aggregates,
    intervals,
    profile,
    published_agents,
    statistics,
)

PUBLISHED = {agent.name: agent for agent in published_agents()}


def test_all_published_agents_have_all_games():
    assert list(PUBLISHED) == ["IRIS", "SPR", "DrQ(eps)", "SimPLe", "CURL"]
    assert all(len(agent.normalized()) == 26 for agent in PUBLISHED.values())


def test_iris_as_published():
    """Micheli et al. 2023, table 1; Pong counts among the 10 at exactly a human's score, but not among the 9."""
    found = aggregates(PUBLISHED["IRIS"])
    assert set(found) == set(STATISTICS)
    rounded = {name: round(value, 3) for name, value in found.items()}
    assert rounded == {
        "mean": 1.046, "median": 0.289, "iqm": 0.501, "optimality_gap": 0.512, "superhuman": 9, "at_least_human": 10,
    }  # fmt: skip
    assert isinstance(found["superhuman"], int)


@pytest.mark.parametrize(
    ("name", "statistic", "expected"),
    [
        ("SPR", "mean", 0.616),
        ("SPR", "median", 0.396),
        ("SPR", "iqm", 0.337),
        ("SPR", "superhuman", 6),
        ("DrQ(eps)", "mean", 0.465),
        ("DrQ(eps)", "median", 0.313),
        ("DrQ(eps)", "iqm", 0.280),
        ("CURL", "mean", 0.261),
        ("CURL", "median", 0.092),
        ("SimPLe", "mean", 0.332),
        ("SimPLe", "median", 0.134),
        ("SimPLe", "superhuman", 1),
    ],
)
def test_the_others_as_published(name: str, statistic: str, expected: float):
    assert round(aggregates(PUBLISHED[name])[statistic], 3) == expected


def test_the_interquartile_mean_cuts_whole_runs_at_both_ends():
    """Of ten values two are cut on each side, as by scipy's trim_mean(…, 0.25)."""
    runs = np.array([[9.0, 0, 1, 2, 3, 4, 5, 6, 7, 100]])
    assert statistics([runs])["iqm"] == pytest.approx([4.5])


def test_games_count_alike_however_many_runs_they_have():
    few, many = np.array([[0.0, 1.0]]), np.array([[2.0, 2, 2, 2, 2, 2]])
    found = {name: values[0] for name, values in statistics([few, many]).items()}
    assert found["mean"] == 1.25 and found["optimality_gap"] == 0.25
    assert found["iqm"] == pytest.approx((3 * 1 + 3 * 2) / 6)  # of 0 0 0 1 1 1 2 2 2 2 2 2, the middle half
    assert (found["superhuman"], found["at_least_human"]) == (1, 1)


def test_a_score_of_exactly_a_humans_is_no_more_than_one():
    found = aggregates(AgentScores("human", {"Pong": [14.6, 14.6], "Boxing": [12.1]}))
    assert (found["superhuman"], found["at_least_human"], found["optimality_gap"]) == (0, 2, 0)


def test_intervals_hold_the_figure_and_narrow_with_more_runs():
    few, many = intervals(PUBLISHED["IRIS"]), intervals(PUBLISHED["SPR"])
    assert few is not None and many is not None
    for agent, bounds in (("IRIS", few), ("SPR", many)):
        found = aggregates(PUBLISHED[agent])
        assert all(bounds[name][0] <= found[name] <= bounds[name][1] for name in STATISTICS)
    assert few["mean"][1] - few["mean"][0] > 2 * (many["mean"][1] - many["mean"][0])
    assert intervals(PUBLISHED["IRIS"]) == few


def test_the_interval_of_a_mean_is_its_standard_errors():
    """One game, 50 runs: two normal standard errors on each side, for the bootstrap has no other source."""
    runs = np.random.default_rng(0).normal(3.0, 1.0, 50)
    agent = AgentScores("normal", {"Boxing": list(runs * 12.0 + 0.1)})
    bounds = intervals(agent)
    assert bounds is not None
    low, high = bounds["mean"]
    error = runs.std() / np.sqrt(50)
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_single_run_has_no_interval():
    assert intervals(AgentScores("one", {"Pong": [1.0, 2.0], "Boxing": [3.0]})) is None


def test_resampling_stays_within_a_game():
    """Two games whose runs never vary: pooled runs would vary, stratified ones cannot."""
    bounds = intervals(AgentScores("constant", {"Pong": [14.6] * 3, "Boxing": [0.1] * 3}))
    assert bounds is not None and bounds["iqm"] == (0.5, 0.5) and bounds["mean"] == (0.5, 0.5)


def test_profiles_are_shares_of_runs():
    samples = [np.array([[0.0, 1.0]]), np.array([[2.0, 2.0, 2.0]])]
    assert profile(samples, np.array([-1.0, 0.0, 1.0, 1.5, 2.0])).tolist() == [[1.0, 0.75, 0.5, 0.5, 0.0]]

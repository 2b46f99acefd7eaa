"""Figures: files that show what they should."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iris_gym.errors import UsageError
from iris_gym.evaluation.atari_100k import AgentScores, aggregates, published_agents
from iris_gym.evaluation.curves import EPOCH, IMAGINED_RETURN, REAL_RETURN, STEPS, Progress
from iris_gym.evaluation.figures import (
    RETURNS,
    aggregate_figure,
    check_figures,
    curves_figure,
    games_figure,
    learning_figure,
    profile_figure,
    returns_figure,
    save_figure,
)

SINGLE = AgentScores("single", {"Pong": [0.0], "Boxing": [30.0]})
AGENTS = [SINGLE, *(agent.on(["Pong", "Boxing"]) for agent in published_agents() if agent.name in ("IRIS", "SimPLe"))]


def run(env: str, level: float, steps=(200, 400, 600)) -> Progress:
    times = np.array(steps, float)
    columns = {STEPS: times, EPOCH: times / 200, "a/loss": level / times, "a/return": times * level}
    return Progress(Path(env), {"env": env}, columns)


def test_the_aggregates_are_marked_and_intervals_drawn_where_there_are_any():
    axes = aggregate_figure(AGENTS).axes
    assert [panel.get_title() for panel in axes] == ["mean", "median", "IQM", "optimality gap (less is better)"]
    marks = [line.get_xdata()[0] for line in axes[0].lines]
    assert marks == [aggregates(agent)["mean"] for agent in AGENTS]
    assert all(len(panel.patches) == 2 for panel in axes)  # a single run has none
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["single", "IRIS", "SimPLe"]
    assert not any(label.get_visible() for panel in axes[1:] for label in panel.get_yticklabels())


@pytest.mark.parametrize("draw", [aggregate_figure, profile_figure])
def test_a_figure_of_few_games_says_so(draw):
    figure = draw(AGENTS)
    assert "2 of the 26 games alone" in figure.get_supxlabel() + figure.axes[0].get_xlabel()
    assert "all 26 games" in (whole := draw(published_agents()[:1])).get_supxlabel() + whole.axes[0].get_xlabel()


def test_each_game_has_a_bar_for_each_agent():
    figure = games_figure(AGENTS)
    (axes,) = figure.axes
    assert len(axes.patches) == 6
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Pong", "Boxing"]
    assert axes.patches[1].get_width() == pytest.approx(29.9 / 12)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["single", "IRIS", "SimPLe"]
    assert [len(dots.get_offsets()) for dots in axes.collections] == [1, 1, 5, 5, 5, 5]  # runs: few enough
    whiskers = [line.get_xdata() for line in axes.lines if line.get_color() == "black" and line.get_linestyle() == "-"]
    assert len(whiskers) == 4  # a single run has none
    boxing = AGENTS[1].normalized()["Boxing"]
    assert boxing.min() <= whiskers[0][0] < boxing.mean() < whiskers[0][1] <= boxing.max()


def test_profiles_fall_from_all_to_none():
    (axes,) = profile_figure(AGENTS).axes
    shares = axes.lines[0].get_ydata()
    assert (np.diff(shares) <= 0).all() and shares[0] == 1.0 and shares[-1] == 0.0
    assert len(axes.collections) == 2


def test_seeds_of_one_environment_are_averaged():
    figure = curves_figure([run("Pong", 1.0), run("Pong", 3.0), run("Boxing", 10.0)], ["a/loss", "a/return"])
    loss, returns = figure.axes
    assert [panel.get_title() for panel in figure.axes] == ["a/loss", "a/return"]
    assert returns.lines[0].get_ydata().tolist() == [400, 800, 1200]
    assert returns.lines[0].get_xdata().tolist() == [200, 400, 600]
    assert len(loss.lines) == 4 and len(loss.collections) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Pong (2 runs)", "Boxing"]
    assert "band: ± one standard deviation" in figure.legends[0].get_title().get_text()


def test_the_real_return_is_dashed_beside_the_imagined_one():
    returns = {IMAGINED_RETURN: np.array([1.0, 2, 3]), REAL_RETURN: np.array([1.0, 1, 1])}
    one = run("Pong", 1.0)
    figure = curves_figure([Progress(one.source, one.config, {**one.columns, **returns})], [*returns, "a/loss"])
    together, loss = figure.axes
    assert [(line.get_linestyle(), line.get_ydata().tolist()) for line in together.lines] == [
        ("-", [1, 2, 3]),
        ("--", [1, 1, 1]),
    ]
    assert REAL_RETURN in together.get_title() and len(loss.lines) == 1


def test_each_environment_has_a_panel_of_its_returns():
    collected, evaluated = RETURNS
    one = run("Pong", 1.0)
    runs = [
        Progress(Path(env), {"env": env}, {**run(env, 1.0).columns, collected: np.array([level, level, level])})
        for env, level in (("Pong", -20.0), ("Pong", -18.0), ("Boxing", 3.0))
    ]
    runs.append(Progress(one.source, {"env": "Pong"}, {**one.columns, evaluated: np.array([-19.0, np.nan, -18])}))
    pong, boxing = returns_figure(runs).axes
    assert [pong.get_title(), boxing.get_title()] == ["Pong (3 runs)", "Boxing"]
    assert pong.lines[0].get_ydata().tolist() == [-19, -19, -19]
    assert [len(line.get_xdata()) for line in boxing.lines] == [3, 0]  # it was never evaluated
    assert len(returns_figure(runs[:2]).axes[0].lines) == 3  # nobody was


def test_one_run_is_shown_from_random_to_its_end():
    learned = run("Pong", 2.0)
    columns = dict(learned.columns) | {
        "rollout/ep_rew_mean": np.array([np.nan, 1.0, 2.0]),
        "evaluation/mean_return": np.array([0.5, np.nan, 3.0]),
    }
    scores = {"mean": 4.0, "standard_error": 0.5, "episodes": [{}] * 20, "random": {"mean": -1.0}}
    (axes,) = learning_figure(Progress(learned.source, learned.config, columns), scores).axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Pong", "environment steps", "return")
    training, evaluations, final, _, _, random = axes.lines
    assert np.array(training.get_data()).tolist() == [[400, 600], [1, 2]]
    assert np.array(evaluations.get_data()).tolist() == [[200, 600], [0.5, 3]]
    assert np.array(final.get_data()).tolist() == [[600], [4]]
    assert random.get_ydata() == [-1, -1] and random.get_linestyle() == "--"
    [bar] = axes.collections[0].get_segments()
    assert bar.tolist() == [[600, 3.5], [600, 4.5]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "training, mean of the last 100 episodes", "evaluations", "random policy", "final evaluation, 20 episodes",
    ]  # fmt: skip


def test_what_a_run_never_recorded_is_not_in_its_legend():
    scores = {"mean": 4.0, "standard_error": None, "episodes": [{}], "random": {"mean": -1.0}}
    (axes,) = learning_figure(run("Pong", 2.0), scores).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "random policy",
        "final evaluation, 1 episode",
    ]


def test_a_run_that_lacks_a_metric_is_left_out_of_its_panel():
    other = Progress(
        Path("b"), {"env": "Boxing"}, {STEPS: np.array([1.0]), EPOCH: np.array([1.0]), "b/x": np.array([2.0])}
    )
    figure = curves_figure([run("Pong", 1.0), other], ["a/loss", "b/x"])
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [3, 0]
    assert [len(line.get_xdata()) for line in figure.axes[1].lines] == [0, 1]


@pytest.mark.parametrize("figure", [aggregate_figure, games_figure, profile_figure])
def test_pictures_are_written_and_not_blank(figure, tmp_path):
    path = tmp_path / "new" / "figure.png"
    save_figure(path, figure(AGENTS))
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[0] > 150 and pixels.shape[1] > 900
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert [entry.name for entry in path.parent.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(("ending", "beginning"), [(".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_other_formats(ending: str, beginning: bytes, tmp_path):
    path = tmp_path / f"curves{ending}"
    save_figure(path, curves_figure([run("Pong", 1.0)], ["a/loss"]))
    assert path.read_bytes().startswith(beginning)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"must end in one of \.png, \.pdf, \.svg"):
        save_figure(tmp_path / "figure.gif", profile_figure([SINGLE]))


def test_without_matplotlib_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r'figures need matplotlib; run: pip install "iris-gym\[plot\]"'):
        check_figures()

"""Figures of scores and learning curves, with matplotlib (the extra `plot`)."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iris_gym.errors import UsageError
from iris_gym.evaluation.atari_100k import AgentScores, aggregates, intervals, profile, resamples
from iris_gym.evaluation.curves import (
    EPOCH,
    IMAGINED_RETURN,
    REAL_RETURN,
    Progress,
    by_setting,
    common_clock,
    mean_curve,
)
from iris_gym.evaluation.files import write_atomically
from iris_gym.evaluation.scores import reference_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AGGREGATES = {"mean": "mean", "median": "median", "iqm": "IQM", "optimality_gap": "optimality gap (less is better)"}
THRESHOLDS = np.linspace(0, 5, 201)
"""Human-normalised scores at which a performance profile is drawn."""

RETURNS = {
    "rollout/ep_rew_mean": "while collecting, mean of the last 100 games",
    "evaluation/mean_return": "evaluations",
}
"""What a run logs of the returns of whole games."""

FEW_RUNS = 10
"""Runs of a game up to which each is drawn."""

FORMATS = (".png", ".pdf", ".svg")


def check_figures(what: str = "figures need") -> None:
    """Raise `UsageError`, which says `what` matplotlib is for, where no figure can be drawn."""
    try:
        import matplotlib  # noqa: F401, an optional package
    except ImportError as error:
        raise UsageError(f'{what} matplotlib; run: pip install "iris-gym[plot]"') from error


def save_figure(path: Path, figure: "Figure") -> None:
    """Write a figure in the format of the name's ending, whole or not at all.

    Raises:
        UsageError: the ending is none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"out={str(path)!r} must end in one of {', '.join(FORMATS)}")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    write_atomically(path, content.getvalue())


def aggregate_figure(agents: Sequence[AgentScores]) -> "Figure":
    """Mean, median, IQM and optimality gap of each agent with their intervals, where there are any."""
    figure, panels = _panels(len(AGGREGATES), columns=4, width=3.2, height=0.9 + 0.4 * len(agents))
    colours = _colours(len(agents))
    found = [(aggregates(agent), intervals(agent)) for agent in agents]
    for axes, (statistic, title) in zip(panels, AGGREGATES.items(), strict=True):
        for place, ((values, bounds), colour) in enumerate(zip(found, colours, strict=True)):
            if bounds is not None:
                low, high = bounds[statistic]
                axes.barh(place, high - low, left=low, height=0.6, color=colour, alpha=0.6)
            axes.plot([values[statistic]] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1.5)
        axes.set(yticks=range(len(agents)), yticklabels=[agent.name for agent in agents])
        axes.tick_params(labelleft=axes is panels[0])
        axes.set_title(title, fontsize="medium")
        axes.use_sticky_edges = False  # else a bar's left end is the panel's
        axes.autoscale_view()
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel(
        f"human-normalised score, {_games(agents)}; line: estimate, bar: 95% bootstrap interval over runs",
        fontsize="small",
    )
    return figure


def games_figure(agents: Sequence[AgentScores]) -> "Figure":
    """Each game's mean over runs, a bar an agent, with its interval where there are several runs, and each of few runs
    as a dot; the scale is linear up to a human's score and logarithmic above."""
    normalized = [agent.normalized() for agent in agents]
    scores = [{game: float(runs.mean()) for game, runs in agent.items()} for agent in normalized]
    games = sorted(scores[0], key=lambda game: scores[0][game])
    figure, (axes,) = _panels(1, columns=1, width=9, height=1.5 + 0.08 * len(games) * (len(agents) + 1))
    height = 0.85 / len(agents)
    for index, (agent, means, colour) in enumerate(zip(agents, scores, _colours(len(agents)), strict=True)):
        places = dict(zip(games, np.arange(len(games)) + 0.425 - height * (index + 0.5), strict=True))
        axes.barh(list(places.values()), [means[game] for game in games], height=height, color=colour, label=agent.name)
        for (game, runs), drawn in zip(normalized[index].items(), resamples(agent), strict=True):
            if len(runs) > 1:
                axes.plot(np.percentile(drawn.mean(axis=1), (2.5, 97.5)), [places[game]] * 2, color="black", lw=0.8)
            if len(runs) <= FEW_RUNS:
                dots = {"s": 5, "facecolor": "white", "edgecolor": "black", "linewidth": 0.5, "zorder": 3}
                axes.scatter(runs, [places[game]] * len(runs), **dots)
    axes.set_xscale("symlog", linthresh=1)
    _mark_human(axes)
    axes.set(
        yticks=range(len(games)),
        yticklabels=games,
        xlabel="human-normalised score, linear to 1 and logarithmic above\n"
        f"bar: mean over runs, line: 95% bootstrap interval, dot: a run (where there are at most {FEW_RUNS})",
        ylim=(-0.6, len(games) - 0.4),
    )
    low, high = axes.get_xlim()
    ticks = [tick for tick in (-1, -0.5, 0, 0.5, 1, 2, 3, 5, 10, 20, 50) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def profile_figure(agents: Sequence[AgentScores]) -> "Figure":
    """Performance profiles: the share of runs that score more than τ, with 95% bands where runs differ."""
    figure, (axes,) = _panels(1, columns=1, width=7, height=4.5)
    for agent, colour in zip(agents, _colours(len(agents)), strict=True):
        runs = [scores[None] for scores in agent.normalized().values()]
        axes.plot(THRESHOLDS, profile(runs, THRESHOLDS)[0], color=colour, label=agent.name)
        if intervals(agent) is not None:
            low, high = _profile_band(agent)
            axes.fill_between(THRESHOLDS, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(
        xlabel=f"human-normalised score τ, {_games(agents)}; band: 95% bootstrap interval over runs",
        ylabel="share of runs with a score above τ",
        xlim=(0, THRESHOLDS[-1]),
        ylim=(0, 1),
    )
    _mark_human(axes)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def curves_figure(runs: Sequence[Progress], metrics: Sequence[str]) -> "Figure":
    """A panel a metric. Runs of one setting are thin lines; their mean is a thick one in a band of one standard
    deviation over runs. The real return is dashed in the panel of the imagined one."""
    together = {IMAGINED_RETURN, REAL_RETURN} <= set(metrics)
    shown = [metric for metric in metrics if not (together and metric == REAL_RETURN)]
    clock, groups = common_clock(runs), by_setting(runs)
    figure, panels = _panels(len(shown), columns=min(3, len(shown)), width=4.2, height=2.8)
    for axes, metric in zip(panels, shown, strict=True):
        for (setting, members), colour in zip(groups.items(), _colours(len(groups)), strict=True):
            label = f"{setting} ({len(members)} runs)" if len(members) > 1 else setting
            _draw_curves(axes, [run.curve(metric, clock) for run in members], label, colour)
            if together and metric == IMAGINED_RETURN:
                _draw_curves(axes, [run.curve(REAL_RETURN, clock) for run in members], None, colour, linestyle="--")
        dashed = together and metric == IMAGINED_RETURN
        axes.set_title(f"{metric}\ndashed: {REAL_RETURN}" if dashed else metric, fontsize="medium")
    _finish_curves(figure, panels, clock, several=any(len(members) > 1 for members in groups.values()), columns=1)
    return figure


def returns_figure(runs: Sequence[Progress]) -> "Figure":
    """A panel an environment and setting, with the returns while collecting and in evaluations."""
    clock, groups = common_clock(runs), by_setting(runs)
    recorded = [metric for metric in RETURNS if any(len(run.curve(metric, clock)[0]) for run in runs)]
    columns = min(4, len(groups))
    figure, panels = _panels(len(groups), columns=columns, width=4.2, height=2.8)
    for axes, (setting, members) in zip(panels, groups.items(), strict=True):
        for metric, colour in zip(recorded, _colours(len(recorded)), strict=True):
            _draw_curves(axes, [run.curve(metric, clock) for run in members], RETURNS[metric], colour)
        count = f" ({len(members)} runs)" if len(members) > 1 else ""
        axes.set_title("\n".join(textwrap.wrap(setting + count, 48)), fontsize="medium")
    for axes in panels[::columns]:
        axes.set_ylabel("return, raw rewards")
    _finish_curves(figure, panels, clock, several=any(len(members) > 1 for members in groups.values()), columns=2)
    return figure


def learning_figure(run: Progress, scores: Mapping[str, Any]) -> "Figure":
    """Returns over environment steps: of the training's episodes, of the evaluations on the way, and of the final one,
    `scores`, with its standard error. A dashed line is the mean of a random policy, `scores["random"]`."""
    clock = common_clock([run])
    figure, (axes,) = _panels(1, columns=1, width=7, height=3.7)
    training, evaluations, final = _colours(3)
    for metric, options in (
        ("rollout/ep_rew_mean", dict(color=training, label="training, mean of the last 100 episodes")),
        ("evaluation/mean_return", dict(color=evaluations, label="evaluations", marker="o", markersize=4)),
    ):
        times, values = run.curve(metric, clock)
        if len(times):
            axes.plot(times, values, **options)
    count = len(scores["episodes"])
    axes.errorbar(
        run.columns[clock][-1:], [scores["mean"]], yerr=[scores["standard_error"] or 0.0], color=final, fmt="D",
        capsize=4, label=f"final evaluation, {count} episode{'s' if count > 1 else ''}",
    )  # fmt: skip
    axes.axhline(scores["random"]["mean"], color="black", linewidth=1, linestyle="--", label="random policy")
    axes.set(title=run.env, xlabel=_axis(clock), ylabel="return")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _axis(clock: str) -> str:
    return "epoch" if clock == EPOCH else "environment steps"


def _draw_curves(
    axes: "Axes",
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    label: str | None,
    colour: Any,
    linestyle: str = "-",
) -> None:
    """Draws a label in any case, so that every panel has the same legend."""
    mean = mean_curve(curves)
    if mean is None:
        axes.plot([], [], color=colour, label=label)
        return
    marker = "o" if len(mean.times) == 1 else None
    line = {"color": colour, "linestyle": linestyle}
    axes.plot(mean.times, mean.mean, **line, linewidth=2, label=label, marker=marker, markersize=4)
    if len(curves) > 1:
        axes.fill_between(mean.times, mean.mean - mean.spread, mean.mean + mean.spread, color=colour, alpha=0.2)
        for times, values in curves:
            axes.plot(times, values, **line, linewidth=0.6, alpha=0.7)


def _finish_curves(figure: "Figure", panels: Sequence["Axes"], clock: str, *, several: bool, columns: int) -> None:
    """What all panels share: the clock, the legend, and what lines and bands are."""
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
    figure.supxlabel(_axis(clock), fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    title = "thick: mean over runs, band: ± one standard deviation, thin: each run" if several else None
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=columns,
        title=title,
        fontsize="small",
        title_fontsize="small",
    )


def _mark_human(axes: "Axes") -> None:
    axes.axvline(1, color="black", linewidth=1, linestyle="--")
    axes.text(1, 1, " human", transform=axes.get_xaxis_transform(), va="bottom")


def _games(agents: Sequence[AgentScores]) -> str:
    """Whether a figure is of Atari 100k, for it may be looked at without the notes of its table."""
    shown, every = len(agents[0].runs), len(reference_scores()["games"])
    return f"all {every} games" if shown == every else f"{shown} of the {every} games alone"


def _profile_band(agent: AgentScores) -> tuple[np.ndarray, np.ndarray]:
    """The 95% band (T,), (T,) of an agent's profile. In parts, for the comparisons of all resamples are many."""
    drawn = resamples(agent)
    parts = [profile([runs[start : start + 50] for runs in drawn], THRESHOLDS) for start in range(0, 500, 50)]
    low, high = np.percentile(np.concatenate(parts), (2.5, 97.5), axis=0)
    return low, high


def _panels(count: int, *, columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure of `count` panels of `width` by `height` inches, without matplotlib's global state."""
    check_figures()
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in axes[count:]:
        unused.remove()
    return figure, list(axes[:count])


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    palette = colormaps["tab10"]
    return [palette(index % 10) for index in range(count)]

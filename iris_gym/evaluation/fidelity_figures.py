"""The figures of a fidelity report, from its findings, as SVG. Matplotlib is asked for where the first is drawn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np

from iris_gym.evaluation.figures import check_figures
from iris_gym.evaluation.findings import Findings, floats

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#595959"
"""Okabe and Ito's colours, which people with any colour vision tell apart; each has a line style of its own, too."""

STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e0e0e0",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "iris_gym",
}

Line = tuple[str, str, str, str]
"""Name among the measures, label, colour, line style."""

Axes = Any
"""Matplotlib's, which is not there without the extra."""


def tokens_by_horizon(findings: Findings) -> bytes:
    lines = [
        ("token_accuracy_told", "told the truth up to there", BLUE, "-"),
        ("token_accuracy_dream", "in the dream", ORANGE, "-"),
        ("token_accuracy_start_kept", "start frame kept", GREY, ":"),
    ]
    with _figure(1) as (axes, done):
        _curves(axes[0], findings["by_horizon"], lines)
        axes[0].axhline(
            findings["tokens"]["commonest_share"], color=PURPLE, linestyle="-.", label="commonest token everywhere"
        )
        axes[0].set(ylabel="share of tokens right", ylim=(0, 1.02))
        _horizon_axis(axes[0])
        return done()


def errors_by_horizon(findings: Findings) -> bytes:
    with _figure(2) as (axes, done):
        for panel, kind, title in (
            (axes[0], "pixel_error", "all pixels"),
            (axes[1], "moving_error", "pixels of what moves"),
        ):
            _curves(panel, findings["by_horizon"], _against_reconstruction(kind))
            panel.set(title=title, yscale="log")
            _horizon_axis(panel, legend=panel is axes[0])
        axes[0].set_ylabel("mean squared error (log)")
        return done()


def ssim_by_horizon(findings: Findings) -> bytes:
    with _figure(1) as (axes, done):
        _curves(axes[0], findings["by_horizon"], _against_reconstruction("ssim"))
        axes[0].set_ylabel("SSIM")
        axes[0].set_ylim(top=1.005)
        _horizon_axis(axes[0])
        return done()


def reward_confusion(findings: Findings) -> bytes:
    reward = findings["reward"]
    with _figure(1, width=5.2) as (axes, done):
        shares = np.array([floats(row or [None] * 3) for row in reward["probabilities"]])
        axes[0].imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
        names = [f"{sign:+d}" if sign else "0" for sign in reward["classes"]]
        axes[0].set(xlabel="reward that was predicted", ylabel="reward that came")
        axes[0].set_xticks(range(3), names)
        axes[0].set_yticks(range(3), names)
        axes[0].grid(False)
        for row, column in np.ndindex(3, 3):
            share = shares[row, column]
            words = "none came" if np.isnan(share) else f"{reward['confusion'][row][column]:,}×\np = {share:.3f}"
            axes[0].text(column, row, words, ha="center", va="center", color="white" if share > 0.5 else "black")
        return done()


def calibration(findings: Findings) -> bytes:
    panels = {
        "reward +1": findings["reward"]["calibration"]["positive"],
        "reward −1": findings["reward"]["calibration"]["negative"],
        "end": findings["end"]["calibration"],
    }
    with _figure(3, height=3.6) as (axes, done):
        for panel, (title, curve) in zip(axes, panels.items(), strict=True):
            predicted, happened, low, high = (floats(curve[name]) for name in ("predicted", "happened", "low", "high"))
            panel.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect")
            bars = np.nan_to_num(np.stack((happened - low, high - happened))).clip(0)
            panel.errorbar(predicted, happened, bars, fmt="o-", color=BLUE, capsize=3, label="world model")
            error = curve["calibration_error"]
            panel.set(title=f"{title}, error {error:.4f}" if error is not None else title)
            panel.set(xlabel="probability given", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes[0].set_ylabel("share that came")
        axes[0].legend(loc="upper left")
        return done()


def survival(findings: Findings) -> bytes:
    lines = [("real", "reality", BLUE, "-"), ("dream", "dream", ORANGE, "--")]
    with _figure(1) as (axes, done):
        _curves(axes[0], findings["survival"], lines, first=0, drawstyle="steps-post", step="post")
        axes[0].set(ylabel="share still going on")
        _horizon_axis(axes[0])
        return done()


def surprise(findings: Findings) -> bytes:
    found = findings["surprise"]
    middles = np.convolve(found["edges"], [0.5, 0.5], mode="valid")
    curve = found["over_the_game"]
    with _figure(1) as (axes, done):
        _curve(axes[0], middles, curve, "real frames", BLUE, "-")
        axes[0].axhline(
            findings["codebook"]["entropy"], color=PURPLE, linestyle="-.", label="knowing only how frequent codes are"
        )
        axes[0].set(xlabel="step of the game", ylabel="nats a token")
        axes[0].set_ylim(bottom=0)
        axes[0].legend()
        return done()


def returns(findings: Findings) -> bytes:
    found = findings["return"]
    lines = [("real", "reality", BLUE, "-"), ("dream", "dream", ORANGE, "--")]
    with _figure(2) as (axes, done):
        _curves(axes[0], found, lines)
        axes[0].set(ylabel="return (signs of rewards)", title="from the same starts")
        _horizon_axis(axes[0])
        _curves(axes[1], found, [("difference", "dream − reality", GREEN, "-")])
        axes[1].axhline(0, color=GREY, linestyle=":")
        axes[1].set(title="difference, start by start")
        _horizon_axis(axes[1])
        return done()


def codes(findings: Findings) -> bytes:
    found = findings["codebook"]
    real, dream = np.array(found["real_shares"]), np.array(found["dream_shares"])
    order = np.argsort(-real, kind="stable")
    with _figure(1) as (axes, done):
        places = np.arange(1, len(order) + 1)
        axes[0].plot(places, _positive(real[order]), color=BLUE, label="in real frames")
        axes[0].plot(
            places, _positive(dream[order]), color=ORANGE, linestyle="none", marker=".", markersize=4, label="in dreams"
        )
        axes[0].set(xlabel="code, most used first", ylabel="share of tokens (log)", yscale="log")
        axes[0].legend()
        return done()


def _positive(shares: np.ndarray) -> np.ndarray:
    """What never came cannot be drawn on a logarithmic axis."""
    return np.where(shares > 0, shares, np.nan)


def _against_reconstruction(kind: str) -> list[Line]:
    return [
        (f"{kind}_dream", "dream", ORANGE, "-"),
        (f"{kind}_reconstruction", "reconstruction alone", BLUE, "--"),
        (f"{kind}_start_kept", "start frame kept", GREY, ":"),
    ]


def _curves(axes: Axes, measures: Mapping[str, Any], lines: Sequence[Line], first: int = 1, **style: Any) -> None:
    for name, label, colour, line in lines:
        steps = np.arange(first, first + len(measures[name]["mean"]))
        _curve(axes, steps, measures[name], label, colour, line, **style)


def _curve(
    axes: Axes,
    x: np.ndarray,
    curve: Mapping[str, Any],
    label: str,
    colour: str,
    line: str,
    step: str | None = None,
    **style: Any,
) -> None:
    """A mean with its interval as a band."""
    mean, low, high = (floats(curve[name]) for name in ("mean", "low", "high"))
    marker = "o" if len(x) == 1 else None
    axes.plot(x, mean, color=colour, linestyle=line, marker=marker, label=label, **style)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, step=step)


def _horizon_axis(axes: Axes, legend: bool = True) -> None:
    axes.set_xlabel("steps after the start")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if legend:
        axes.legend()


@contextmanager
def _figure(
    panels: int, *, width: float = 9.0, height: float = 3.8
) -> Iterator[tuple[list[Axes], Callable[[], bytes]]]:
    """Panels side by side, and what makes an SVG of them. No window, and no global setting of Matplotlib is touched."""
    check_figures("a report needs")
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)

        def done() -> bytes:
            buffer = BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
            return buffer.getvalue()

        yield list(np.ravel(figure.subplots(1, panels))), done

"""Results as JSON, and from them the table and the figures."""

import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median, median_low
from typing import Any

import numpy as np

from iris_gym.errors import UsageError
from iris_gym.evaluation.atari_100k import CONFIDENCE, RESAMPLES, statistics
from iris_gym.evaluation.figures import check_figures, save_figure
from iris_gym.evaluation.files import write_atomically
from iris_gym.evaluation.scores import versions

from .jobs import ABLATIONS, AGENTS, MODEL_FREE, Job, Sizes, ablation_jobs, jobs_of, steps_until
from .recorder import Recorder

LABELS = {
    "random": "random",
    "iris": "IRIS",
    "ppo": "PPO",
    "dqn": "DQN",
    "recurrent_ppo": "RecurrentPPO",
    "dream_ppo": "PPO in IRIS's dream",
}


FEWEST = 3
"""Seeds of which an interval is given: a bootstrap of fewer knows nothing of how they spread."""
SUMMARY = (1_000, 3_000, 5_000)
"""Environment steps in the first table, besides the last."""
PROCESSOR_FIELDS = ("model name", "vendor_id", "cpu family", "model")


def write_result(job: Job, recorder: Recorder) -> None:
    result = {name: value for name, value in asdict(job).items() if name != "folder" and value is not None}
    result |= {"points": recorder.points, "reached": recorder.reached}
    result |= {"processor": processor(), "versions": versions() | {"commit": _commit()}}
    result |= {"settings": recorder.settings}
    write_atomically(job.file, (json.dumps(result, indent=1) + "\n").encode())


def processor() -> str:
    """As Linux knows it, or else Python: a seed repeats, and seconds compare, on the same kind only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = ", ".join(f"{name} {fields[name]}" for name in PROCESSOR_FIELDS if name in fields)
    return known or platform.processor() or platform.machine()  # only x86 has these fields


def _commit() -> str | None:
    """Of the checkout that runs, ending in `-dirty` where its files were changed; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def interquartile_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """That of seeds, and where it lies in 95 % of bootstrap draws of as many."""
    return float(statistics([np.array([values])])["iqm"][0]), *_middle(_draws(values, np.random.default_rng(0)))


def difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """By how much the interquartile mean of `values` is above that of `others`, and 95 % of bootstrap draws of both."""
    rng = np.random.default_rng(0)
    between = interquartile_mean(values)[0] - interquartile_mean(others)[0]
    return between, *_middle(_draws(values, rng) - _draws(others, rng))


def _draws(values: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Interquartile means of bootstrap draws."""
    runs = np.array(values)
    return statistics([runs[rng.integers(len(runs), size=(RESAMPLES, len(runs)))]])["iqm"]


def _middle(draws: np.ndarray) -> tuple[float, float]:
    """Between which two numbers 95 % of the draws lie."""
    low, high = np.percentile(draws, 100 * np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return float(low), float(high)


def way_to_play(results: Sequence[dict[str, Any]]) -> str:
    """Of each agent in each environment the one that ends with the highest interquartile mean."""
    last = [result["points"][-1]["evaluations"] for result in results]
    return max(last[0], key=lambda way: interquartile_mean([evaluations[way]["mean"] for evaluations in last])[0])


def write_report(
    folder: Path, sizes: Sizes, agents: Sequence[str], environments: Sequence[str], seeds: Sequence[int]
) -> list[Path]:
    """Write `table.md` and the figures of all results there are; those that there are not are listed as missing."""
    check_figures()
    jobs = jobs_of(folder, sizes, agents, environments, seeds)
    found = {job: result for job in jobs if (result := job.result()) is not None}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for job, result in found.items():
        groups.setdefault((job.environment, job.agent), []).append(result)
    for (environment, agent), results in groups.items():
        _check_settings(f"{LABELS[agent]} in {environment}", results)
    missing: dict[str, list[str]] = {}
    for job in jobs:
        if job not in found:
            missing.setdefault(f"{LABELS[job.agent]} in {job.environment}", []).append(f"{job.seed}")
    text = [
        f"Mean returns of {sizes.episodes} episodes, by environment steps, IRIS `{sizes.preset}`. Interquartile means "
        f"over {len(seeds)} seeds with 95 % bootstrap intervals; below them every seed, in the way to play that ends "
        "best.",
        *(_summary(groups, sizes) if len(agents) > 1 else ()),
        *(_table_of(environment, groups) for environment in environments),
        *_until_table(folder, sizes, environments, seeds),
        *_ablation_tables(folder, sizes, environments, seeds),
        "Missing: "
        + ("; ".join(f"{what}, seeds {' '.join(which)}" for what, which in missing.items()) or "none")
        + ".",
    ]
    table = folder / "table.md"
    write_atomically(table, ("\n\n".join(text) + "\n").encode())
    if not groups:
        return [table]
    figure = folder / "curves.png"
    save_figure(figure, _figure(environments, groups))
    return [table, figure]


def _check_settings(what: str, results: Sequence[dict[str, Any]]) -> None:
    """Raise `UsageError` where seeds were run with different settings: they are no sample of anything."""
    first, *others = results
    for other in others:
        one, two = first["settings"], other["settings"]
        names = [name for name in one | two if one.get(name) != two.get(name)]
        if names:
            raise UsageError(
                f"{what}: seeds {first['seed']} and {other['seed']} were run with another {', '.join(names)}; "
                "remove the file of one to run it again"
            )


def _summary(groups: dict[tuple[str, str], list[dict[str, Any]]], sizes: Sizes) -> list[str]:
    """A row for each agent in each environment."""
    steps = [step for step in SUMMARY if step < sizes.steps]
    rows, before = [], None
    for (environment, agent), results in groups.items():
        way = way_to_play(results)
        curve = _curve(results, way)
        means = [_interval(curve.get(step)) for step in (*steps, max(curve))]
        named = environment if environment != before else ""
        rows.append([named, LABELS[agent], way, *means, f"{_cpu_seconds(results, max(curve)):,.0f}"])
        before = environment
    header = ["environment", "agent", "actions", *(f"{step:,}" for step in (*steps, sizes.steps)), "CPU seconds"]
    return [f"## Each agent in the way to play that ends best\n\n{_markdown(header, rows)}"] if rows else []


def _table_of(environment: str, groups: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """The interquartile means of every agent and way to play, and below them each seed by itself."""
    found = {agent: groups[environment, agent] for agent in AGENTS if (environment, agent) in groups}
    parts = [f"## {environment}"]
    if random := found.pop("random", []):
        each = _curve(random, "sampled")[0]
        parts.append(f"Random actions: {_interval(each)}; by seed {', '.join(f'{mean:.3f}' for mean in each)}.")
    steps = sorted(
        {point["env_steps"] for results in found.values() for result in results for point in result["points"]}
    )
    columns = [f"{step:,}" for step in steps]
    at_last = ["return > 0", "length", "seconds", "CPU seconds"]
    means = [row for agent, results in found.items() for row in _mean_rows(LABELS[agent], results, steps)]
    seeds = [
        _seed_row(LABELS[agent], result, way_to_play(results), steps)
        for agent, results in found.items()
        for result in results
    ]
    parts.append(_markdown(["agent", "actions", "seeds", *columns, "CPU seconds"], means))
    parts.append(_markdown(["agent", "actions", "seed", *columns, *at_last], seeds))
    return "\n\n".join(parts)


def _mean_rows(label: str, results: Sequence[dict[str, Any]], steps: Sequence[int]) -> Iterator[list[str]]:
    """An agent's interquartile means, a row for each way to play."""
    for way in results[0]["points"][-1]["evaluations"]:
        curve = _curve(results, way)
        intervals = [_interval(curve.get(step)) for step in steps]
        yield [label, way, f"{len(results)}", *intervals, f"{_cpu_seconds(results, max(curve)):,.0f}"]


def _seed_row(label: str, result: dict[str, Any], way: str, steps: Sequence[int]) -> list[str]:
    """One seed's mean returns, and how its last evaluation went and what it took to get there."""
    curve, last = _curve([result], way), result["points"][-1]
    means = [f"{curve[step][0]:.3f}" if step in curve else "" for step in steps]
    played = last["evaluations"][way]
    at_last = [
        f"{played['solved']:.0%}",
        f"{played['length']:.1f}",
        f"{last['seconds']:,.0f}",
        f"{last['cpu_seconds']:,.0f}",
    ]
    return [label, way, f"{result['seed']}", *means, *at_last]


def _curve(results: Sequence[dict[str, Any]], way: str) -> dict[int, list[float]]:
    """By environment steps, each seed's mean return. Of an agent that dreams only what it came to in the end."""
    curve: dict[int, list[float]] = {}
    for result in results:
        points = {point["env_steps"]: point["evaluations"][way]["mean"] for point in result["points"]}
        for step, value in points.items():
            curve.setdefault(step, []).append(value)
    return curve


def final_mean(results: Sequence[dict[str, Any]]) -> float:
    """The interquartile mean that an agent's seeds end with."""
    way = way_to_play(results)
    return interquartile_mean([result["points"][-1]["evaluations"][way]["mean"] for result in results])[0]


def _until_table(folder: Path, sizes: Sizes, environments: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """When each seed, or the one that went on for longer, had an evaluation as good as IRIS's mean in the end."""
    rows = []
    for environment in environments:
        runs = {
            agent: [_longest(job) for job in jobs_of(folder, sizes, [agent], [environment], seeds)]
            for agent in ("iris", *MODEL_FREE)
        }
        found = {agent: found for agent, results in runs.items() if (found := [result for result in results if result])}
        if len(found.get("iris", ())) < len(seeds) or len(found) == 1:
            continue
        goal = final_mean(found["iris"])
        for agent, results in found.items():
            _check_settings(f"{LABELS[agent]} in {environment}, the longer runs among them", results)
            taken = [_steps_until(result, goal) for result in results]
            middle, each = _shown_steps(median_low(taken)), ", ".join(map(_shown_steps, taken))
            rows.append([environment if agent == "iris" else "", LABELS[agent], f"{goal:.3f}", middle, each])
    title = f"Environment steps until an evaluation is as good as IRIS's interquartile mean after {sizes.steps:,}"
    header = ["environment", "agent", "goal", "median", "steps of each seed"]
    return [f"## {title}\n\n{_markdown(header, rows)}"] if rows else []


def _longest(job: Job) -> dict[str, Any] | None:
    """What a job found, or the one that was like it but went on for longer."""
    return json.loads(job.longer_file.read_text()) if job.longer_file.exists() else job.result()


Steps = tuple[bool, int]
"""Whether there were too few, and how many: the order is that of how many are needed, as far as it is known."""


def _steps_until(result: dict[str, Any], goal: float) -> Steps:
    """Those of the first evaluation that is as good as `goal`, or all of them."""
    steps = steps_until(result["points"], goal)
    return steps is None, steps or result["points"][-1]["env_steps"]


def _shown_steps(steps: Steps) -> str:
    too_few, count = steps
    return f">{count:,}" if too_few else f"{count:,}"


def _ablation_tables(folder: Path, sizes: Sizes, environments: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """For each environment the ways in which the preset was changed, and the difference that they made in the end."""
    for environment in environments:
        by_name: dict[str | None, list[dict[str, Any]]] = {}
        for job in ablation_jobs(folder, sizes, [environment], seeds, tuple(ABLATIONS)):
            if (result := job.result()) is not None:
                by_name.setdefault(job.ablation, []).append(result)
        if not by_name.keys() - {None}:
            continue
        curves = {name: _curve(results, way_to_play(results)) for name, results in by_name.items()}
        steps = sorted(curves[next(iter(curves))])
        rows = []
        for name, curve in curves.items():
            _check_settings(f"ablation {name or sizes.preset} in {environment}", by_name[name])
            seeds_done = {result["seed"] for result in by_name[name]}
            unchanged = [result for result in by_name.get(None, []) if result["seed"] in seeds_done]
            rows.append(
                [
                    name or f"`{sizes.preset}`",
                    ", ".join(f"`{field}={value}`" for field, value in ABLATIONS[name].items()) if name else "none",
                    *(_interval(curve[at]) for at in steps),
                    ", ".join(f"{mean:.2f}" for mean in curve[steps[-1]]),
                    _difference(by_name[name], unchanged) if name and unchanged else "",
                    f"{_cpu_seconds(by_name[name], steps[-1]):,.0f}",
                ]
            )
        columns = [*(f"{step:,}" for step in steps), "each seed at last", "difference at last", "CPU seconds"]
        absent = ", ".join(name for name in ABLATIONS if name not in by_name)
        yield f"## Ablations in {environment}"
        yield _markdown(["what", "changes", *columns], rows)
        yield from [f"Not done: {absent}."] if absent else []


def _difference(results: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> str:
    """Of what both came to in the end."""
    values, before = ([*_curve(runs, way_to_play(runs)).values()][-1] for runs in (results, others))
    between, low, high = difference(values, before)
    few = min(len(values), len(before)) < FEWEST
    return f"{between:+.2f}" if few else f"{between:+.2f} [{low:+.2f}, {high:+.2f}]"


def _interval(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    mean, low, high = interquartile_mean(values)
    if len(values) < FEWEST:
        return f"{mean:.3f}"
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figure(environments: Sequence[str], groups: dict[tuple[str, str], list[dict[str, Any]]]) -> Any:
    """A column an environment; above by environment steps, below by the training's CPU time.

    That is the wall-clock of one that has its core for itself, which jobs beside other work have not.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(environments), 7), layout="constrained")
    panels = figure.subplots(2, len(environments), squeeze=False)
    for column, environment in enumerate(environments):
        for index, agent in enumerate(AGENTS):
            results = groups.get((environment, agent))
            if results is None:
                continue
            curve = _curve(results, way_to_play(results))
            estimates = np.array([interquartile_mean(values) for values in curve.values()])
            style: dict[str, Any] = dict(color=colormaps["tab10"](index), label=LABELS[agent])
            if agent == "random":
                for axes in panels[:, column]:
                    axes.axhline(estimates[0, 0], linestyle=":", **style)
                continue
            steps = np.array(list(curve))
            clock = np.array([_cpu_seconds(results, step) for step in steps])
            for axes, places in ((panels[0, column], steps), (panels[1, column], clock)):
                axes.plot(places, estimates[:, 0], marker="o", markersize=4, **style)
                axes.fill_between(places, *estimates[:, 1:].T, color=style["color"], alpha=0.2, linewidth=0)
                if len(places) == 1:
                    axes.vlines(places, *estimates[:, 1:].T, color=style["color"])
        panels[0, column].set(title=environment, xlabel="environment steps")
        panels[1, column].set(xlabel="CPU seconds of training, one core", xscale="log")
        panels[1, column].xaxis.set_minor_formatter("")  # over less than two decades its labels overlap
        for axes in panels[:, column]:
            axes.grid(alpha=0.3)
    named = {
        label: handle for axes in panels[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend([*named.values()], [*named], loc="outside upper center", ncols=len(named))
    figure.supylabel("mean return: interquartile mean of seeds, 95 % interval", fontsize="medium")
    return figure


def _cpu_seconds(results: Sequence[dict[str, Any]], steps: int) -> float:
    """The median over seeds of the seconds of training up to the last evaluation after so many steps."""
    taken = [{point["env_steps"]: point["cpu_seconds"] for point in result["points"]} for result in results]
    return median(seconds[steps] for seconds in taken if steps in seconds)

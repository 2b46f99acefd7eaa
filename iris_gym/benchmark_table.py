"""What a person sees of a benchmark: a table, and what else there is to say; its file, and the comparison of two."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from iris_gym.errors import UsageError
from iris_gym.evaluation.files import write_atomically
from iris_gym.untrusted.documents import parse_json, read_document


def read_result(path: Path) -> dict[str, Any]:
    """A result that `--json` wrote. Raises `UsageError` for any other file."""
    try:
        result = parse_json(read_document(path, f"compare={str(path)!r}"))
        if not all(entry["median_s"] > 0 for entry in result["phases"].values()):
            raise ValueError("a phase took no time")
    except UsageError:
        raise
    except UnicodeDecodeError as error:
        raise UsageError(f"compare={str(path)!r} cannot be read: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"compare={str(path)!r} is not what iris-gym bench --json writes") from error
    return result


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write JSON. Raises `UsageError` where it cannot be written."""
    try:
        write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    except OSError as error:
        raise UsageError(f"json={str(path)!r} cannot be written: {error}") from error


def ratios(result: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast as `other` each phase is that both have measured with the same batch."""
    before = other["phases"]
    return {
        name: before[name]["median_s"] / entry["median_s"]
        for name, entry in result["phases"].items()
        if name in before and before[name].get("batch") == entry["batch"]
    }


def table(result: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Table:
    """The phases; with another result also how many times as fast this one is."""
    compared = ratios(result, other) if other else {}
    shown = Table(
        title=f"preset {result['preset']} on {result['device']} ({result['machine']})", box=box.SIMPLE_HEAD, padding=0
    )
    shown.add_column("phase", no_wrap=True)
    for heading in ["batch", "median", "spread", "per second", "of peak", "memory"] + (["× other"] if other else []):
        shown.add_column(heading, justify="right")
    for name, entry in result["phases"].items():
        middle, memory = entry["median_s"], entry["own_memory_bytes"]
        cells = [
            str(entry["batch"]),
            seconds(middle),
            f"{entry['min_s'] / middle - 1:+.0%} {entry['max_s'] / middle - 1:+.0%}",
            f"{entry['per_s']:,.1f} {entry['unit']}",
            f"{entry['share_of_peak']:.0%}" if "share_of_peak" in entry else "",
            "" if memory is None else f"{memory / 1e9:.2f} GB",
        ]
        if other:
            cells.append(f"{compared[name]:.2f}" if name in compared else "")
        shown.add_row(name, *cells)
    return shown


def check_table(check: Mapping[str, Any]) -> Table:
    """Seconds projected and real, by phase and in all."""
    shown = Table(title=f"{check['epochs']} epochs at {check['stored_frames']:,} stored frames", box=box.SIMPLE_HEAD)
    shown.add_column("phase", no_wrap=True)
    for heading in ("projected s", "real s", "ratio"):
        shown.add_column(heading, justify="right")
    projected, real = check["projected_s"], check["real_s"]
    for name, ratio in check["ratios"].items():
        shown.add_row(name, f"{projected[name]:,.2f}", f"{real[name]:,.2f}", f"{ratio:.3f}")
    shown.add_row("in all", f"{sum(projected.values()):,.2f}", f"{sum(real.values()):,.2f}", f"{check['ratio']:.3f}")
    return shown


def scaling_markdown(result: Mapping[str, Any]) -> str:
    """A Markdown table for each scale: time, and memory where it is known, with the exponents of their growth."""
    return "\n\n".join(_scale_markdown(name, scale) for name, scale in result["scales"].items())


def _scale_markdown(name: str, scale: Mapping[str, Any]) -> str:
    rows = [
        [name, *(f"{size:,}" for size in scale["sizes"]), "exponent"],
        ["---", *["--:"] * len(scale["sizes"]), "--:"],
    ]
    for what, growth in scale["measured"].items():
        rows.append([what, *map(seconds, growth["median_s"]), power(growth["exponent"])])
        if None not in growth["memory_bytes"]:
            memory = [f"{size / 1e6:,.0f} MB" for size in growth["memory_bytes"]]
            rows.append([f"{what}, memory", *memory, power(growth["memory_exponent"])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def power(exponent: float | None) -> str:
    return "" if exponent is None else f"{exponent:.2f}"


def remarks(result: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Iterator[str]:
    """What there is to say below the table, line by line."""
    peaks = ", ".join(f"{flops / 1e9:,.0f} in {name}" for name, flops in result["matrix_product_flops"].items())
    yield (
        f"computed in {result['precision']}, CPU threads {result['threads']} (spins {result['spins']}), "
        f"{result['allocator']} allocator"
    )
    yield f"of peak: products and convolutions alone, against the machine's matrix product (GFLOP/s: {peaks})"
    yield "memory: what a phase takes beyond the networks, the libraries and what else is in use before it"
    yield from _cache_remarks(result["phases"])
    if result["perceptual_distance"] and "autoencoder" in result["phases"]:
        yield f"the autoencoder's perceptual distance: {result['perceptual_distance']}, as much work as the real one"
    if result["operations_per_imagined_step"] is not None:
        yield (
            f"operations dispatched per imagined step: {result['operations_per_imagined_step']:,}, "
            f"per transformer pass: {result['operations_per_transformer_pass']:,} (views left out)"
        )
    if "dream" in result["phases"]:
        yield f"dream environment / bare dynamics loop: {result['phases']['dream']['ratio_to_bare']:.3f}"
    for name, entry in result["phases"].items():
        if "profile" in entry:
            yield _profile_remark(name, entry["profile"])
    if result["full_run_hours"] is not None:
        yield f"a full run takes {result['full_run_hours']:.2f} hours: {result['full_run_formula']}"
        yield "in a full run: " + ", ".join(_shares(result))
    if other:
        names = ("preset", "device", "machine", "threads", "spins", "allocator", "precision", "config")
        differing = [name for name in names if other.get(name) != result[name]]
        if differing:
            yield f"the other result differs from this one in {', '.join(differing)}"


def _cache_remarks(phases: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, entry in phases.items():
        if "cold_median_s" in entry:
            frames = " and ".join(f"{count:,.1f} to {kind}" for kind, count in entry["amortised_frames"].items())
            yield (
                f"{name}: {seconds(entry['warm_median_s'])} with all frames cached, {seconds(entry['cold_median_s'])} "
                f"with none of {entry['cold_frames']:,}; the median has {frames}, as on average when collection ends"
            )


def _profile_remark(name: str, profile: Mapping[str, Any]) -> str:
    operations = (
        f"{operation['name']} {operation['self_s'] / (profile['busy_s'] or 1):.0%} ({operation['calls']:,})"
        for operation in profile["operations"]
    )
    runs = f" {profile['runs']} times" if profile["runs"] > 1 else ""
    return f"{name}{runs}: {profile['calls']:,} operations in {seconds(profile['busy_s'])}: {', '.join(operations)}"


def _shares(result: Mapping[str, Any]) -> Iterator[str]:
    for name, hours in result["full_run_hours_by_phase"].items():
        yield f"{name} × {result['full_run_work'][name]:,} {hours:.2f} h"


def seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.2f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} µs"

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
        middle, memory = entry["median_s"], entry["peak_memory_bytes"]
        cells = [
            str(entry["batch"]),
            f"{middle:.2f} s" if middle >= 1 else f"{1000 * middle:.2f} ms",
            f"{entry['min_s'] / middle - 1:+.0%} {entry['max_s'] / middle - 1:+.0%}",
            f"{entry['per_s']:,.1f} {entry['unit']}",
            f"{entry['share_of_peak']:.0%}" if "share_of_peak" in entry else "",
            f"{memory / 1e9:.2f} GB" if memory else "",
        ]
        if other:
            cells.append(f"{compared[name]:.2f}" if name in compared else "")
        shown.add_row(name, *cells)
    return shown


def remarks(result: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Iterator[str]:
    """What there is to say below the table, line by line."""
    yield (
        f"matrix product {result['matrix_product_flops'] / 1e9:,.0f} GFLOP/s ({result['precision']}), "
        f"CPU threads {result['threads']}, {result['allocator']} allocator"
    )
    if result["operations_per_imagined_step"] is not None:
        yield f"operations dispatched per imagined step: {result['operations_per_imagined_step']:,}"
    if "dream" in result["phases"]:
        yield f"dream environment / bare dynamics loop: {result['phases']['dream']['ratio_to_bare']:.3f}"
    if result["full_run_hours"] is not None:
        yield f"a full run takes {result['full_run_hours']:.2f} hours: {result['full_run_formula']}"
        yield "in a full run: " + ", ".join(f"{name} × {count:,}" for name, count in result["full_run_work"].items())
    if other:
        names = ("preset", "device", "machine", "threads", "allocator", "precision", "config")
        differing = [name for name in names if other.get(name) != result[name]]
        if differing:
            yield f"the other result differs from this one in {', '.join(differing)}"

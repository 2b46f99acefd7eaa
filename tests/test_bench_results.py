"""What the README says of speed beside the public implementation, against the figures that lie in the repository."""

import json
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
RUNS = json.loads((ROOT / "examples/bench_results/beside_public.json").read_text())
PUBLIC = {"actor_critic": "actor_critic", "world_model": "world_model", "autoencoder": "tokenizer", "act": "acting"}
ROWS = {  # by the README's label: preset, phase, figure, digits
    "actor-critic of `paper`, 32 rows": ("paper", "actor_critic", "median_s", 3),
    "the same, all frames cached": ("paper", "actor_critic", "warm_median_s", 3),
    "the same, nothing cached": ("paper", "actor_critic", "cold_median_s", 3),
    "world model of `paper`, 16 segments": ("paper", "world_model", "median_s", 3),
    "autoencoder of `paper`, 32 frames": ("paper", "autoencoder", "median_s", 3),
    "acting with `paper`, one environment": ("paper", "act", "median_s", 2),
    "actor-critic of `default`, 32 rows": ("default", "actor_critic", "median_s", 3),
    "world model of `default`, 16 segments": ("default", "world_model", "median_s", 3),
    "autoencoder of `default`, 32 frames": ("default", "autoencoder", "median_s", 3),
}


def here(preset: str, precision: str, phase: str, figure: str) -> list[float]:
    return [run["phases"][phase][figure] for run in RUNS["here"][f"{preset} {precision}"]]


def public(allocator: str, phase: str) -> list[float]:
    updates = [run[PUBLIC[phase]] for run in RUNS["public"][allocator]]
    return [update["seconds_per_step" if phase == "act" else "seconds_per_update"] for update in updates]


def numbers(cell: str) -> list[float]:
    return [float(number) for number in cell.split(" to ")] if cell else []


@pytest.mark.parametrize("label", ROWS)
def test_each_row_is_of_the_runs(label):
    preset, phase, figure, digits = ROWS[label]
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {label} |"))
    untuned, tuned, bf16, float32 = (numbers(cell.strip()) for cell in line.split("|")[2:-1])
    measured = [here(preset, "bf16", phase, figure), here(preset, "float32", phase, figure)]
    expected = [*measured] if preset == "default" or figure != "median_s" else [*measured, public("untuned", phase)]
    shown = [bf16, float32, untuned][: len(expected)]
    if preset == "paper" and figure == "median_s":
        expected, shown = [*expected, public("tuned", phase)], [*shown, tuned]
    else:
        assert not untuned and not tuned
    for cell, values in zip(shown, expected, strict=True):
        ends = sorted({min(values), max(values)})
        assert cell == pytest.approx(ends, rel=0.5 * 10 ** (1 - digits)), (label, cell, values)


def test_the_batches_are_the_same():
    """Rows, segments and frames of an update here are as many as there."""
    for runs in RUNS["here"].values():
        for run in runs:
            for phase in PUBLIC.keys() - {"act"}:
                assert run["phases"][phase]["batch"] == RUNS["public"]["tuned"][0][PUBLIC[phase]]["batch"]
            assert run["config"]["perceptual_weight"] == 0  # which the public figures lack, too


def test_how_many_times_as_fast():
    text = " ".join((ROOT / "README.md").read_text().split())
    paper, default = (mean(here(preset, "bf16", "actor_critic", "median_s")) for preset in ("paper", "default"))
    tuned, untuned = (mean(public(allocator, "actor_critic")) for allocator in ("tuned", "untuned"))
    assert f"is {tuned / paper:.1f} times as fast as the public one, and {untuned / paper:.1f} times where" in text
    assert f"one of `default`'s is {paper / default:.1f} times as fast again" in text
    for words, preset, phase in (
        ("of the autoencoder's time in bf16", "paper", "autoencoder"),
        ("of the world model's", "paper", "world_model"),
        ("of the actor-critic's", "paper", "actor_critic"),
        ("of acting's", "paper", "act"),
    ):
        low, high = sorted(round(100 * share) for share in here(preset, "bf16", phase, "share_of_peak"))
        assert f"{low} to {high} % {words}" in text, (phase, low, high)
    assert {round(100 * share) for share in here("default", "bf16", "actor_critic", "share_of_peak")} == {14}

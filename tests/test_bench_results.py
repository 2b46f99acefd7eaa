"""What the README says of speed beside the public implementation, against the figures that lie in the repository."""

import json
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
RUNS = json.loads((ROOT / "examples/bench_results/beside_public.json").read_text())
PUBLIC = {"actor_critic": "actor_critic", "world_model": "world_model", "autoencoder": "tokenizer", "act": "acting"}
ROWS = {  # by the README's label: preset, phase, figure
    "actor-critic of `paper`, 32 rows": ("paper", "actor_critic", "median_s"),
    "the same, all frames cached": ("paper", "actor_critic", "warm_median_s"),
    "the same, nothing cached": ("paper", "actor_critic", "cold_median_s"),
    "world model of `paper`, 16 segments": ("paper", "world_model", "median_s"),
    "autoencoder of `paper`, 32 frames": ("paper", "autoencoder", "median_s"),
    "acting with `paper`, one environment": ("paper", "act", "median_s"),
    "actor-critic of `default`, 32 rows": ("default", "actor_critic", "median_s"),
    "world model of `default`, 16 segments": ("default", "world_model", "median_s"),
    "autoencoder of `default`, 32 frames": ("default", "autoencoder", "median_s"),
}


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def here(preset: str, precision: str, phase: str, figure: str) -> list[float]:
    return [run["phases"][phase][figure] for run in RUNS["here"][f"{preset} {precision}"]]


def public(allocator: str, phase: str) -> list[float]:
    updates = [run[PUBLIC[phase]] for run in RUNS["public"][allocator]]
    return [update["seconds_per_step" if phase == "act" else "seconds_per_update"] for update in updates]


def span(values: list[float]) -> str:
    low, high = (f"{value:#.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


@pytest.mark.parametrize("label", ROWS)
def test_each_row_is_of_the_runs(label, readme):
    preset, phase, figure = ROWS[label]
    both = preset == "paper" and figure == "median_s"  # is there of the public implementation, too
    cells = [span(public(allocator, phase)) if both else "" for allocator in ("untuned", "tuned")]
    cells += [span(here(preset, precision, phase, figure)) for precision in ("bf16", "float32")]
    assert " | ".join([f"| {label}", *cells]).replace("  ", " ") + " |\n" in readme


def test_the_batches_are_the_same():
    """Rows, segments and frames of an update here are as many as there, and LPIPS is in neither."""
    for run in (run for runs in RUNS["here"].values() for run in runs):
        assert run["config"]["perceptual_weight"] == 0
        for phase in PUBLIC.keys() - {"act"}:
            assert run["phases"][phase]["batch"] == RUNS["public"]["tuned"][0][PUBLIC[phase]]["batch"]


def test_how_many_times_as_fast(readme):
    text = " ".join(readme.split())
    paper, default = (mean(here(preset, "bf16", "actor_critic", "median_s")) for preset in ("paper", "default"))
    tuned, untuned = (mean(public(allocator, "actor_critic")) for allocator in ("tuned", "untuned"))
    assert f"is {tuned / paper:.1f} times as fast as the public one, and {untuned / paper:.1f} times where" in text
    assert f"one of `default`'s is {paper / default:.1f} times as fast again" in text


@pytest.mark.parametrize(
    "words, phase",
    [
        ("of the autoencoder's time in bf16", "autoencoder"),
        ("of the world model's", "world_model"),
        ("of the actor-critic's", "actor_critic"),
        ("of acting's", "act"),
    ],
)
def test_how_far_from_the_machines_peak(words, phase, readme):
    low, high = sorted(round(100 * share) for share in here("paper", "bf16", phase, "share_of_peak"))
    assert f"{low} to {high} % {words}" in " ".join(readme.split())

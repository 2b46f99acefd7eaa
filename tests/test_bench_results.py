"""What the pages say of speed beside the public implementation, against the figures that lie in the repository."""

import json
from pathlib import Path
from statistics import mean

import pytest

from iris_gym import IRISConfig
from iris_gym.config import preset as config_of

ROOT = Path(__file__).parents[1]
COLUMNS = {  # of the table of each file
    "beside_public": ("untuned", "tuned", "bf16", "float32"),
    "beside_public_zen4": ("untuned", "tuned", "bf16", "float32"),
    "beside_public_zen3": ("tuned", "float32"),
}
RUNS = {file: json.loads((ROOT / f"examples/bench_results/{file}.json").read_text()) for file in COLUMNS}
PUBLIC = {"actor_critic": "actor_critic", "world_model": "world_model", "autoencoder": "tokenizer", "act": "acting"}
ROWS = {  # by the label: preset, phase, figure
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
    """The README, and the page beside the results."""
    return "\n".join((folder / "README.md").read_text() for folder in (ROOT, ROOT / "examples/bench_results"))


@pytest.fixture(scope="module")
def text(readme) -> str:
    return " ".join(readme.split())


def here(file: str, preset: str, precision: str, phase: str, figure: str) -> list[float]:
    """Of the runs that timed the phase."""
    runs = RUNS[file]["here"][f"{preset} {precision}"]
    return [run["phases"][phase][figure] for run in runs if phase in run["phases"]]


def public(file: str, allocator: str, phase: str) -> list[float]:
    updates = [run[PUBLIC[phase]] for run in RUNS[file]["public"][allocator] if PUBLIC[phase] in run]
    return [update["seconds_per_step" if phase == "act" else "seconds_per_update"] for update in updates]


def span(values: list[float]) -> str:
    low, high = (f"{value:#.3g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


@pytest.mark.parametrize("file", COLUMNS)
@pytest.mark.parametrize("label", ROWS)
def test_each_row_is_of_the_runs(file, label, readme):
    preset, phase, figure = ROWS[label]
    cells = []
    for column in COLUMNS[file]:
        if column in ("bf16", "float32"):
            cells.append(span(here(file, preset, column, phase, figure)))
        else:  # the public implementation has no other preset, and caches nothing
            cells.append(span(public(file, column, phase)) if (preset, figure) == ("paper", "median_s") else "")
    assert " | ".join([f"| {label}", *cells]).replace("  ", " ") + " |\n" in readme


@pytest.mark.parametrize("file", COLUMNS)
def test_the_batches_are_the_same(file):
    """Rows, segments and frames of an update here are as many as there, and LPIPS is in neither."""
    there = {name: update for run in RUNS[file]["public"]["tuned"] for name, update in run.items()}
    for run in (run for runs in RUNS[file]["here"].values() for run in runs):
        assert run["config"]["perceptual_weight"] == 0
        for phase in (PUBLIC.keys() - {"act"}) & run["phases"].keys():
            assert run["phases"][phase]["batch"] == there[PUBLIC[phase]]["batch"]


@pytest.mark.parametrize(
    "file, sentence",
    [
        (
            "beside_public",
            "So an update of `paper`'s actor-critic is {tuned:.1f} times as fast as the public one, and {untuned:.1f} "
            "times where that has the untuned allocator; one of `default`'s is {default:.1f} times as fast again.",
        ),
        (
            "beside_public_zen4",
            "So there an update of `paper`'s actor-critic is {tuned:.1f} times as fast as the public one, and "
            "{untuned:.1f} times where that has the untuned allocator; one of `default`'s is {default:.1f} times as "
            "fast again.",
        ),
        (
            "beside_public_zen3",
            "So there an update of `paper`'s actor-critic is {tuned:.1f} times as fast as the public one in float32, "
            "and one of `default`'s is {default:.1f} times as fast again.",
        ),
    ],
)
def test_how_many_times_as_fast(file, sentence, text):
    precision = "bf16" if "bf16" in COLUMNS[file] else "float32"
    paper, default = (
        mean(here(file, preset, precision, "actor_critic", "median_s")) for preset in ("paper", "default")
    )
    times = {allocator: mean(public(file, allocator, "actor_critic")) / paper for allocator in RUNS[file]["public"]}
    assert sentence.format(**times, default=paper / default) in text


@pytest.mark.parametrize(
    "words, phase",
    [
        ("of the autoencoder's time in bf16", "autoencoder"),
        ("of the world model's", "world_model"),
        ("of the actor-critic's", "actor_critic"),
        ("of acting's", "act"),
    ],
)
def test_how_far_from_the_machines_peak(words, phase, text):
    low, high = sorted(round(100 * share) for share in here("beside_public", "paper", "bf16", phase, "share_of_peak"))
    assert f"{low} to {high} % {words}" in text


@pytest.mark.parametrize("file, precision", [("beside_public_zen4", "bf16"), ("beside_public_zen3", "float32")])
def test_how_far_from_the_peak_of_the_other_machines(file, precision, text):
    shares = []
    for preset in ("paper", "default"):
        found = sorted({round(100 * share) for share in here(file, preset, precision, "actor_critic", "share_of_peak")})
        shares.append(" to ".join(map(str, found)))
    assert "the arithmetic alone would take {} % of `paper`'s, {} % of `default`'s".format(*shares) in text


def test_what_frames_that_are_not_cached_cost(text):
    (run,) = RUNS["beside_public_zen3"]["here"]["paper float32"]
    entry = run["phases"]["actor_critic"]
    frames, seconds = entry["amortised_frames"], entry["median_s"] - entry["warm_median_s"]
    assert (
        f"{seconds:.1f} s go into {frames['encode']:.0f} frames that are not encoded yet, at "
        f"{1000 * entry['encode_frame_s']:.0f} ms each, and {frames['reconstruct']:.0f} that are not reconstructed "
        f"yet, at {1000 * entry['reconstruct_frame_s']:.0f}." in text
    )


@pytest.mark.parametrize(
    "file, dtype, words",
    [
        ("beside_public", "float32", "GFLOP/s in float32"),
        ("beside_public", "bf16", "in bf16"),
        ("beside_public_zen4", "float32", "GFLOP/s in float32"),
        ("beside_public_zen4", "bf16", "in bf16"),
        ("beside_public_zen3", "float32", "GFLOP/s in float32"),
    ],
)
def test_the_peaks_of_the_machines(file, dtype, words, text):
    runs = [run for runs in RUNS[file]["here"].values() for run in runs]
    peaks = [round(run["matrix_product_flops"][dtype] / 1e9) for run in runs]
    assert f"at {min(peaks):,} to {max(peaks):,} {words}" in text


def test_the_projection_is_that_of_the_epochs_that_were_trained(text):
    checks = json.loads((ROOT / "examples/bench_results/check_epochs.json").read_text())
    small, default = (checks[preset] for preset in ("small", "default"))
    real, projected = ([sum(check[kind].values()) for check in (small, default)] for kind in ("real_s", "projected_s"))
    assert (
        f"two epochs of `small` took {real[0]:.1f} s on one thread of a Zen 5 where {projected[0]:.1f} s were "
        f"projected, and two of `default`, with smaller batches and fewer updates, {real[1]:.1f} s on two of a Zen 4 "
        f"where {projected[1]:.1f} s were;"
    ) in text
    assert [check["benchmark"]["threads"] for check in (small, default)] == [1, 2]
    apart = [abs(ratio - 1) for check in (small, default) for ratio in check["ratios"].values()]
    assert f"each phase was projected to within {100 * max(apart):.0f} % of what it took" in text
    assert all(abs(check["ratio"] - 1) < 0.15 for check in (small, default))
    trained = small["benchmark"]["config"]
    assert {name for name, value in IRISConfig.small().to_dict().items() if trained[name] != value} == {
        "total_epochs",  # the check has a schedule of its own, in which everything learns from the first epoch on
        "start_autoencoder_after",
        "start_transformer_after",
        "start_actor_critic_after",
        "slow_autoencoder_after",
        "stop_autoencoder_after",
        "settled_autoencoder_updates",
        "autoencoder_first_updates",
        "transformer_first_updates",
        "actor_critic_first_updates",
    }


def test_what_takes_longest(text):
    profiles = json.loads((ROOT / "examples/bench_results/profile_zen4.json").read_text())

    def shares(name: str, *operations: str) -> tuple[str, ...]:
        """Of the time of all operations of a rollout."""
        profile = profiles[name]["phases"]["imagination"]["profile"]
        seconds = {each["name"].removeprefix("aten::"): each["self_s"] for each in profile["operations"]}
        return tuple(f"{100 * seconds[operation] / profile['busy_s']:.0f} %" for operation in operations)

    fast, plain = (profiles[name]["phases"]["imagination"]["median_s"] for name in ("fast", "plain"))
    convolutions, layers, attention = shares("fast", "mkldnn_convolution", "addmm", "bmm")
    assert (
        f"takes {fast:.2f} s in bf16, and of the operations' own time in it convolutions have {convolutions}, the "
        f"layers' products {layers} and those with keys and values {attention}."
    ) in text
    fused = "_scaled_dot_product_flash_attention_for_cpu"
    convolutions, layers, attention = shares("plain", "mkldnn_convolution", "addmm", fused)
    assert (
        f"With `--no-accelerate` it takes {plain:.1f} s: convolutions {convolutions}, the layers' products {layers}, "
        f"fused attention {attention}."
    ) in text
    passes = {name: profiles[name]["operations_per_transformer_pass"] for name in ("fast", "plain")}
    assert (
        f"Reading one more token a row dispatches {passes['plain']} operations in float32, views left out, where the "
        f"public transformer dispatches {profiles['public_operations_per_transformer_pass']['count']}, and "
        f"{passes['fast']} in bf16 on a CPU"
    ) in text


def test_what_the_presets_are_and_take(text):
    small = json.loads((ROOT / "examples/bench_results/check_epochs.json").read_text())["small"]["benchmark"]
    taken = {"small": f"{small['full_run_hours']:.1f}, one core"}
    for name in ("default", "paper"):
        hours = [run["full_run_hours"] for run in RUNS["beside_public"]["here"][f"{name} bf16"]]
        taken[name] = f"{min(hours):.0f} to {max(hours):.0f}, two cores"
    assert small["threads"] == 1
    for name, hours in taken.items():
        config = config_of(name)
        assert (
            f"{config.tokens_per_frame} of {config.vocab_size} | {config.transformer_layers} layers of "
            f"{config.transformer_embed_dim}, {config.transformer_timesteps} timesteps | {hours}" in text
        )


def test_how_often_bf16_agrees(text):
    found = json.loads((ROOT / "examples/bench_results/bf16_agreement.json").read_text())
    config, small = IRISConfig.from_dict(found["config"]).to_dict(), IRISConfig.small().to_dict()
    assert {name for name in small if config[name] != small[name]} == {"eval_interval"}
    assert (found["env_steps"], config["env"], config["transformer_timesteps"]) == (6000, "ALE/Pong-v5", 5)
    share = {name: f"{100 * value:.1f}" for name, value in found["agreement"].items()}
    assert (
        f"of an agent of `small` after 6,000 steps of Pong {share['encode']} % of the frames' tokens were those of "
        f"float32, {share['next_token']} % of the likeliest next tokens and 100 % of the likeliest rewards and ends"
        in text
    )
    assert found["agreement"]["reward"] == found["agreement"]["end"] == 1
    assert (
        "Of the five steps of a greedy dream, as many as its world model reads, "
        f"{found['agreement']['dream_steps']:.1f} passed on average before the first other token, and "
        f"{share['dream_tokens']} % of the tokens agreed" in text
    )

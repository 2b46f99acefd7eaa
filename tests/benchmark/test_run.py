"""No test here asks the clock how fast anything is: structure, counting and arithmetic only."""

import pytest
import torch

from iris_gym import IRISConfig
from iris_gym.benchmark import PHASES, benchmark, run
from iris_gym.benchmark.measuring import count_operations
from iris_gym.benchmark.phases import CacheUse, Phase
from iris_gym.benchmark.run import Timing, measure
from iris_gym.errors import UsageError

CPU = torch.device("cpu")
PEAKS = {"float32": 2_000.0, "bf16": 4_000.0}


def test_a_timing_becomes_an_entry():
    phase = Phase("collect", lambda: None, batch=2, unit="steps", units=2, runs=10)
    entry = Timing([4.0, 1.0, 2.0], flops=1_000, peak_memory=9, idle_memory=7).entry(phase, PEAKS)
    assert entry == {
        "median_s": 0.2,
        "min_s": 0.1,
        "max_s": 0.4,
        "batch": 2,
        "per_s": 10.0,
        "unit": "steps",
        "precision": "float32",
        "peak_memory_bytes": 9,
        "idle_memory_bytes": 7,
        "own_memory_bytes": 2,
        "flops": 100,
        "share_of_peak": 0.25,  # 100 operations in 0.2 s of 2,000 a second
    }


def test_the_dream_is_held_against_the_bare_loop_by_medians():
    phase = Phase("dream", lambda: None, batch=64, unit="steps", beside=lambda: None)
    entry = Timing([3.0, 9.0, 2.0], beside=[2.0, 1.0, 50.0]).entry(phase, PEAKS)
    assert entry["bare_median_s"] == 2.0
    assert entry["ratio_to_bare"] == 1.5
    assert "share_of_peak" not in entry


def test_what_is_compared_runs_in_turn_after_a_warm_up(clock):
    order = []

    def run() -> None:
        order.append("run")
        clock.tick(2.0)

    def beside() -> None:
        order.append("beside")
        clock.tick(1.0)

    timing = measure(Phase("dream", run, batch=1, unit="steps", beside=beside), 2, CPU)
    assert order == ["run", "run", "beside", "run", "beside"]
    assert (timing.seconds, timing.beside) == ([2.0, 2.0], [1.0, 1.0])


def test_the_arithmetic_of_a_phase_is_counted_once():
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    timing = measure(Phase("act", lambda: a @ b, batch=1, unit="actions"), 3, CPU)
    assert timing.flops == 2 * 2 * 3 * 5
    assert len(timing.seconds) == 3


def test_the_share_is_of_the_peak_in_the_phases_precision():
    phase = Phase("act", lambda: None, batch=1, unit="actions", precision="bf16")
    assert Timing([1.0], flops=1_000).entry(phase, PEAKS)["share_of_peak"] == 0.25


def test_an_amortised_median_lies_between_warm_and_cold(clock):
    """An update takes 1 s, a cold one 4 s; on average it encodes 10 frames of 50 ms and reconstructs 2 of 100 ms."""
    cached, counts = [], []

    def run() -> None:
        clock.tick(1.0 if cached else 4.0)
        cached.append(True)

    def frame_seconds(kind: str, count: int) -> float:
        counts.append((kind, count))
        return {"encode": 0.05, "reconstruct": 0.1}[kind]

    cache = CacheUse(cached.clear, 30, {"encode": 10.0, "reconstruct": 2.0}, frame_seconds)
    phase = Phase("actor_critic", run, batch=2, unit="updates", cache=cache)
    entry = measure(phase, 2, CPU).entry(phase, PEAKS)
    names = ("median_s", "warm_median_s", "cold_median_s", "min_s", "max_s", "per_s")
    assert [entry[name] for name in names] == pytest.approx([1.7, 1.0, 4.0, 1.7, 1.7, 1 / 1.7])
    assert (entry["cold_frames"], entry["encode_frame_s"], entry["reconstruct_frame_s"]) == (30, 0.05, 0.1)
    assert counts == [("encode", 10), ("encode", 11), ("encode", 12)] + [("reconstruct", n) for n in (2, 3, 4)]


def test_the_work_of_a_full_run_is_the_schedules():
    """30 steps are two epochs of 20; the third epoch, the last, does not collect."""
    config = IRISConfig.tiny(
        atari_100k=False,
        max_env_steps=30,
        total_epochs=3,
        start_autoencoder_after=1,
        autoencoder_updates_per_epoch=7,
        start_transformer_after=2,
        transformer_updates_per_epoch=5,
        start_actor_critic_after=3,
    )
    result = benchmark(config, device="cpu", only=["act"], repeats=1)
    assert result["full_run_work"] == {"collect": 30, "autoencoder": 14, "world_model": 5, "actor_critic": 0}
    assert result["full_run_hours"] is None


def test_every_phase_is_measured_with_its_own_batch():
    done = []
    result = benchmark(IRISConfig.tiny(), preset="tiny", device="cpu", repeats=1, on_phase=done.append)
    assert tuple(result["phases"]) == PHASES == tuple(done)
    batches = {name: entry["batch"] for name, entry in result["phases"].items()}
    assert batches == {
        "collect": 1,
        "autoencoder": 8,
        "world_model": 2,
        "imagination": 2,
        "actor_critic": 2,
        "act": 1,
        "dream": 64,
    }
    assert all(entry["min_s"] <= entry["median_s"] <= entry["max_s"] for entry in result["phases"].values())
    assert all(result["phases"][name]["share_of_peak"] > 0 for name in ("autoencoder", "world_model", "actor_critic"))
    imagination = result["phases"]["imagination"]
    assert imagination["per_s"] == pytest.approx(2 * 3 / imagination["median_s"])  # of 4 steps the last asks nobody
    assert result["imagined_steps_per_s"] == imagination["per_s"]
    assert result["full_run_hours"] == pytest.approx(sum(result["full_run_hours_by_phase"].values()))
    assert result["full_run_hours_by_phase"].keys() == result["full_run_work"].keys()
    assert result["matrix_product_flops"].keys() == {"float32", "bf16"}
    for name in ("world_model", "actor_critic"):
        entry = result["phases"][name]
        assert entry["warm_median_s"] <= entry["median_s"]
    assert "cold_median_s" not in result["phases"]["autoencoder"]
    assert result["config"] == IRISConfig.tiny().to_dict()


@pytest.mark.parametrize("later, largest", [(3e9, 3e9), (1e9, 2e9)])
def test_a_peak_is_the_largest_of_before_and_after_a_phase(monkeypatch, later, largest):
    monkeypatch.setattr(run, "matrix_product_peaks", lambda device: {"float32": 2e9, "bf16": 5e9})
    monkeypatch.setattr(run, "matrix_product_peak", lambda device, precision: {"float32": later}[precision])
    result = benchmark(IRISConfig.tiny(precision="float32"), device="cpu", only=["act"], repeats=1)
    assert result["matrix_product_flops"] == {"float32": largest, "bf16": 5e9}


def test_phases_are_profiled_after_all_are_measured_with_their_frames_cached(monkeypatch):
    order = []

    def profiled(once, *_):
        order.append("profiled")
        assert count_operations(once) == count_operations(once)
        return {"calls": 1, "busy_s": 1.0, "operations": []}

    monkeypatch.setattr(run, "profiled", profiled)
    only = ["world_model", "actor_critic"]
    result = benchmark(IRISConfig.tiny(), device="cpu", only=only, repeats=1, profile=1, on_phase=order.append)
    assert order == [*only, "profiled", "profiled"]
    assert all(result["phases"][name]["profile"]["runs"] == 1 for name in only)


def test_a_batch_holds_for_all_phases_but_collect():
    only = ["dream", "actor_critic", "collect", "act"]
    result = benchmark(IRISConfig.tiny(), device="cpu", only=only, batch=3, repeats=1)
    batches = {name: entry["batch"] for name, entry in result["phases"].items()}
    assert batches == {"collect": 1, "actor_critic": 3, "act": 3, "dream": 3}
    assert result["full_run_hours"] is None


def test_operations_are_those_of_one_more_step():
    def counted(layers: int) -> int:
        config = IRISConfig.tiny(transformer_layers=layers)
        return benchmark(config, device="cpu", only=["imagination"], repeats=1)["operations_per_imagined_step"]

    one, two, three = counted(1), counted(2), counted(3)
    assert three - two == two - one > 0
    assert (two - one) % 16 == 0  # of the 16 passes that a frame takes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"only": ["colect"]}, "only='colect' is no phase; choose from collect, autoencoder"),
        ({"repeats": 0}, "repeats=0 must be greater than 0"),
        ({"batch": 0}, "batch=0 must be greater than 0"),
        ({"device": "cuda:99"}, "device='cuda:99'"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        benchmark(IRISConfig.tiny(), **({"device": "cpu"} | arguments))

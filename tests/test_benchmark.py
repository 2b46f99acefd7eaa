"""No test here asks the clock how fast anything is: structure, counting and arithmetic only."""

from contextlib import closing

import pytest
import torch

from iris_gym import IRISConfig
from iris_gym import benchmark as benchmark_module
from iris_gym.benchmark import (
    PHASES,
    Bench,
    Phase,
    Timing,
    benchmark,
    count_operations,
    distinct,
    frames_computed,
    full_run_hours,
    measure,
    timed,
)
from iris_gym.data.replay import Replay
from iris_gym.envs import make_vec_env
from iris_gym.errors import UsageError
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.training.learner import LearnerPlan

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_yardstick(monkeypatch):
    monkeypatch.setattr(benchmark_module, "PEAK_SIZE", {"cpu": 16})


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(benchmark_module.time, "perf_counter", lambda: self.now)

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_a_timing_becomes_an_entry():
    phase = Phase("collect", lambda: None, batch=2, unit="steps", units=2, runs=10)
    entry = Timing([4.0, 1.0, 2.0], flops=1_000, peak_memory=7).entry(phase, peak_flops=2_000.0)
    assert entry == {
        "median_s": 0.2,
        "min_s": 0.1,
        "max_s": 0.4,
        "batch": 2,
        "per_s": 10.0,
        "unit": "steps",
        "peak_memory_bytes": 7,
        "flops": 100,
        "share_of_peak": 0.25,  # 100 operations in 0.2 s of 2,000 a second
    }


def test_the_dream_is_held_against_the_bare_loop_by_medians():
    phase = Phase("dream", lambda: None, batch=64, unit="steps", beside=lambda: None)
    entry = Timing([3.0, 9.0, 2.0], beside=[2.0, 1.0, 50.0]).entry(phase, peak_flops=1.0)
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


def test_the_yardstick_is_the_fastest_product(clock, monkeypatch):
    seconds = iter([3.0, 2.0, 4.0])
    monkeypatch.setattr(benchmark_module, "PEAK_TRIES", 3)
    monkeypatch.setattr(benchmark_module, "timed", lambda run, device: next(seconds))
    assert benchmark_module.matrix_product_peak(CPU) == 2 * 16**3 / 2.0


def test_timed_is_the_difference_of_two_looks_at_the_clock(clock):
    assert timed(lambda: clock.tick(0.5), CPU) == 0.5


def test_views_are_no_operations():
    a = torch.ones(2, 3)
    assert count_operations(lambda: a.view(3, 2).t()[0]) == 0
    assert count_operations(lambda: (a.view(3, 2) + 1).exp()) == 2


def test_a_full_run_is_counts_times_medians():
    phases = {"collect": {"median_s": 0.36}, "autoencoder": {"median_s": 7.2}, "act": {"median_s": 99.0}}
    assert full_run_hours({"collect": 10_000, "autoencoder": 500, "world_model": 0}, phases, {}) == pytest.approx(2.0)
    assert full_run_hours({"collect": 10_000, "world_model": 1}, phases, {}) is None


def test_frames_that_are_not_cached_cost_extra():
    phases = {"world_model": {"median_s": 99.0, "warm_median_s": 3.6, "frame_s": 0.036}}
    assert full_run_hours({"world_model": 1_000}, phases, {"world_model": 100_000.0}) == pytest.approx(2.0)


def test_an_amortised_median_lies_between_warm_and_cold(clock):
    """An update takes 1 s, a cold one 4 s for 30 frames; in a run 10 frames an update are new."""
    cached = []

    def run() -> None:
        clock.tick(1.0 if cached else 4.0)
        cached.append(True)

    phase = Phase("world_model", run, batch=2, unit="updates", forget=cached.clear, cold_frames=30, amortised_frames=10)
    entry = measure(phase, 2, CPU).entry(phase, peak_flops=1.0)
    names = ("median_s", "warm_median_s", "cold_median_s", "frame_s", "min_s", "max_s", "per_s")
    assert [entry[name] for name in names] == pytest.approx([2.0, 1.0, 4.0, 0.1, 2.0, 2.0, 0.5])


def plan(start_after: int, stop_after: int | None = None, updates: int = 5) -> LearnerPlan:
    return LearnerPlan(start_after, stop_after, updates, batch_size=10, segment_length=2, align="start")


def test_few_draws_are_all_distinct_and_many_are_everything():
    assert distinct(10, 10**9) == pytest.approx(10)
    assert distinct(10**6, 100) == pytest.approx(100)
    assert distinct(100, 100) == pytest.approx(100 * (1 - 0.36788), rel=1e-5)


def test_a_tokenizer_that_learns_has_everything_computed_again():
    """Epochs 2 and 3 draw 100 frames each; with a tokenizer that stopped after epoch 1 they are drawn together."""
    stored = [100, 100, 100]
    assert frames_computed(plan(1), plan(0), stored) == pytest.approx(2 * distinct(100, 100))
    assert frames_computed(plan(1), plan(0, stop_after=1), stored) == pytest.approx(distinct(200, 100))
    assert frames_computed(plan(1, updates=0), plan(0), stored) == 0


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
    hours = full_run_hours(result["full_run_work"], result["phases"], result["full_run_frames_computed"])
    assert result["full_run_hours"] == hours
    for name in ("world_model", "actor_critic"):
        entry = result["phases"][name]
        assert entry["warm_median_s"] <= entry["median_s"]
    assert "cold_median_s" not in result["phases"]["autoencoder"]
    assert result["config"] == IRISConfig.tiny().to_dict()


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


def test_only_a_changed_tokenizer_is_encoded_again(monkeypatch):
    """The second update on the same segment is warm; the third, after forgetting, computes all of its frames."""
    encoded = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, frames: encoded.append(len(frames)) or encode(self, frames))
    config = IRISConfig.tiny()
    with Replay(None) as replay, closing(make_vec_env(config.env, 1)) as env:
        phase = Bench(config, env, replay, CPU).phase("world_model")
        for forget in (False, False, True):
            if forget and phase.forget:
                phase.forget()
            phase.run()
    assert encoded == [phase.cold_frames] * 2
    assert 4 < phase.cold_frames <= 8  # two segments of four frames

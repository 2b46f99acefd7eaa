"""Measure the phases of a run, and project it."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch

from iris_gym import process
from iris_gym.assembly import build_replay, choose_device
from iris_gym.benchmark.measuring import (
    PeakMemory,
    Precision,
    beyond,
    count_flops,
    machine,
    matrix_product_peak,
    matrix_product_peaks,
    timed,
)
from iris_gym.benchmark.phases import PHASES, Bench, CacheUse, Phase, bench_env, precision_of, with_batch
from iris_gym.benchmark.profiling import profiled
from iris_gym.benchmark.projection import FORMULA, projected_seconds
from iris_gym.config import IRISConfig
from iris_gym.config_limits import LARGEST
from iris_gym.errors import UsageError
from iris_gym.evaluation.scores import versions


@dataclass(slots=True)
class Timing:
    """Seconds of each timing of a phase, and the arithmetic that torch's counter knew of in one."""

    seconds: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    frames: dict[str, list[float]] = field(default_factory=dict)  # by kind of the cache's work, of one frame
    flops: int = 0
    peak_memory: int | None = None  # bytes
    idle_memory: int | None = None
    profile: dict[str, Any] | None = None  # as `profiling.summary` gives it

    @property
    def own_memory(self) -> int | None:
        """Bytes that the phase took beyond those in use before it."""
        return beyond(self.idle_memory, self.peak_memory)

    def entry(self, phase: Phase, peaks: Mapping[Precision, float]) -> dict[str, Any]:
        """The phase's part of the result; `peaks` are the machine's matrix product's operations a second."""
        seconds = [value / phase.runs for value in self.seconds]
        warm = median(seconds)
        frame = {kind: median(values) for kind, values in self.frames.items()}
        amortised = phase.cache.amortised if phase.cache else {}
        cache = sum(amortised[kind] * frame[kind] for kind in frame)
        entry: dict[str, Any] = {
            "median_s": warm + cache,
            "min_s": min(seconds) + cache,
            "max_s": max(seconds) + cache,
            "batch": phase.batch,
            "per_s": phase.units / (warm + cache),
            "unit": phase.unit,
            "precision": phase.precision,
            "peak_memory_bytes": self.peak_memory,
            "idle_memory_bytes": self.idle_memory,
            "own_memory_bytes": self.own_memory,
        }
        if self.flops:
            entry["flops"] = self.flops // phase.runs
            entry["share_of_peak"] = self.flops / phase.runs / warm / peaks[phase.precision]
        if phase.cache:
            entry |= {"warm_median_s": warm, "cold_median_s": median(self.cold)}
            entry |= {"cold_frames": phase.cache.cold_frames, "amortised_frames": amortised}
            entry |= {f"{kind}_frame_s": value for kind, value in frame.items()}
        if self.profile:
            entry["profile"] = {"runs": phase.runs} | self.profile
        if self.beside:
            entry["bare_median_s"] = median(self.beside) / phase.runs
            entry["ratio_to_bare"] = entry["median_s"] / entry["bare_median_s"]
        return entry


def benchmark(
    config: IRISConfig,
    *,
    preset: str | None = None,
    device: torch.device | str = "auto",
    only: Sequence[str] = (),
    batch: int | None = None,
    repeats: int = 5,
    profile: int = 0,
    on_phase: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Time the phases of a run with networks that have learned nothing, in the real environment and on stored noise.

    Args:
        config: what to build. Its environment is played in `collect`, and gives the number of actions.
        preset: the name under which the result goes.
        only: names of phases; none means all.
        batch: rows of every phase but `collect`, instead of the config's. No full run is projected then.
        repeats: timings of a phase, after one that warms up and counts operations.
        profile: how many of the operations that take longest to tell of each phase, from one more timing of it.
        on_phase: called with the name of each phase when it is done.

    Returns:
        What `--json` writes. `median_s` of the components that read cached frames is amortised over the epoch in
        which collection ends: `warm_median_s`, with every frame cached, and for each of the `amortised_frames` that an
        update is the first to need, on average, `encode_frame_s` or `reconstruct_frame_s`. `cold_median_s` is with no
        frame cached, of the `cold_frames` different ones in a batch.

        `share_of_peak` is the arithmetic of a warm run against `matrix_product_flops` of the phase's `precision`; the
        products and convolutions alone are counted. `operations_per_imagined_step` are those that torch dispatches
        for policy, world model and decoder, `operations_per_transformer_pass` those for one more token a row, views
        left out. `full_run_hours` is by `full_run_formula`, None where a phase of it was not measured. Memory is as
        `PeakMemory` says, and a phase's `profile` as `profiling.summary`, of as many `runs` as one timing has.

    Raises:
        UsageError: an argument cannot be used.
    """
    _check(only, batch, repeats, profile)
    config.validate()
    chosen_device = choose_device(device)
    names = [name for name in PHASES if not only or name in only]
    timings: list[tuple[Phase, Timing]] = []
    peaks = matrix_product_peaks(chosen_device)
    with closing(bench_env(config)) as env, build_replay(config, None, device=chosen_device) as replay:
        bench = Bench(config if batch is None else with_batch(config, batch), env, replay, chosen_device, batch)
        for name in names:
            phase = bench.phase(name)
            timings.append((phase, measure(phase, repeats, chosen_device)))
            again = matrix_product_peak(chosen_device, phase.precision)  # a busy machine hides it at times
            peaks[phase.precision] = max(peaks[phase.precision], again)
            if on_phase:
                on_phase(name)
        if profile:  # last, for on a GPU a profiler slows down all that follows
            for phase, timing in timings:
                if phase.cache:  # measured, its frames are not known any more
                    phase.run()
                timing.profile = profiled(phase.run, chosen_device, profile)
        imagines = "imagination" in names
        operations = bench.operations_per_imagined_step() if imagines else None
        operations_a_pass = bench.operations_per_transformer_pass() if imagines else None
        work, computed = bench.work(), bench.computed_in_all()
    phases = {phase.name: timing.entry(phase, peaks) for phase, timing in timings}
    seconds = projected_seconds(work, phases, computed) if batch is None else None
    return {
        "preset": preset,
        "device": str(chosen_device),
        "phases": phases,
        "imagined_steps_per_s": phases["imagination"]["per_s"] if "imagination" in phases else None,
        "operations_per_imagined_step": operations,
        "operations_per_transformer_pass": operations_a_pass,
        "full_run_hours": sum(seconds.values()) / 3600 if seconds else None,
        "full_run_hours_by_phase": {name: value / 3600 for name, value in seconds.items()} if seconds else None,
        "full_run_work": work,
        "full_run_frames_computed": {name: asdict(frames) for name, frames in computed.items()},
        "full_run_formula": FORMULA,
        "matrix_product_flops": peaks,
        "repeats": repeats,
        "precision": precision_of("actor_critic", config, chosen_device),
        "perceptual_distance": "LPIPS over a VGG16 of random weights" if config.perceptual_weight else None,
        "threads": torch.get_num_threads(),
        "allocator": process.allocator,
        "spins": os.environ.get(process.SPIN_SETTING, "default"),
        "machine": machine(chosen_device),
        "config": config.to_dict(),
        "versions": versions(),
    }


def measure(phase: Phase, repeats: int, device: torch.device) -> Timing:
    """Time a phase `repeats` times, after runs that warm up and count its arithmetic."""
    timing, memory = Timing(), PeakMemory(device)
    memory.begin()
    if phase.cache or device.type == "cuda":  # frames get cached, graphs recorded: no part of what is counted
        phase.run()
    timing.flops = count_flops(phase.run)
    for _ in range(repeats):
        if phase.cache:
            phase.cache.forget()
            timing.cold.append(timed(phase.run, device))
        timing.seconds.append(timed(phase.run, device))
        if phase.beside:
            timing.beside.append(timed(phase.beside, device))
    timing.idle_memory, timing.peak_memory = memory.idle, memory.end()
    if phase.cache:
        timing.frames = {kind: _frame_seconds(phase.cache, kind, repeats) for kind in phase.cache.amortised}
    return timing


def _frame_seconds(cache: CacheUse, kind: str, repeats: int) -> list[float]:
    """Seconds a frame where as many are computed at once as in an update on average.

    Never the same number twice: in a run it changes from update to update, too, and a new shape has its own cost.
    """
    count = max(round(cache.amortised[kind]), 1)
    return [cache.frame_seconds(kind, count + more) for more in range(repeats + 1)][1:]


def _check(only: Sequence[str], batch: int | None, repeats: int, profile: int) -> None:
    unknown = [name for name in only if name not in PHASES]
    if unknown:
        raise UsageError(f"only={unknown[0]!r} is no phase; choose from {', '.join(PHASES)}")
    if batch is not None and not 1 <= batch <= LARGEST["autoencoder_batch_size"]:
        raise UsageError(
            f"batch={batch} must be greater than 0 and at most {LARGEST['autoencoder_batch_size']}, or left out"
        )
    if repeats < 1:
        raise UsageError(f"repeats={repeats} must be greater than 0")
    if profile < 0:
        raise UsageError(f"profile={profile} must not be negative; 0 is none")

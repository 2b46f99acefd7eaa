"""How fast every phase of a run is on this machine, and how long a whole run therefore takes."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from iris_gym import process
from iris_gym.assembly import (
    Models,
    build_collector,
    build_dream,
    build_learners,
    build_models,
    build_trainer,
    choose_device,
)
from iris_gym.config import IRISConfig
from iris_gym.config_limits import LARGEST
from iris_gym.data.replay import Replay
from iris_gym.envs import make_vec_env
from iris_gym.errors import UsageError
from iris_gym.evaluation.scores import versions
from iris_gym.functional import unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.imagination.policy import Policy
from iris_gym.training.learner import Learner, LearnerPlan
from iris_gym.training.losses import imagine
from iris_gym.training.randomness import RandomStreams
from iris_gym.types import FRAME_SHAPE, Segment

PhaseName = Literal["collect", "autoencoder", "world_model", "imagination", "actor_critic", "act", "dream"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)

DREAM_ROWS = 64
ACTIONS_TIMED = 20
"""Calls of the policy in one timing, since one alone is short."""
STORED_ROWS = 512
"""Transitions of noise that the learners draw from: no phase takes longer or shorter for what it sees."""
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the float32 matrices whose product is the yardstick."""
PEAK_TRIES = 10

FORMULA = (
    "env steps × collect + for each component (updates × warm median + frames computed × (cold - warm median) / "
    "frames of the cold update), over the whole schedule, where in an epoch N (1 - exp(-D / N)) of N stored frames are "
    "among the D drawn since the tokenizer changed; without evaluations, whose games may take any number of steps, "
    "checkpoints and pictures"
)


@dataclass(frozen=True)
class Phase:
    """What is timed. `median_s` is of one run: an environment step, an update, a rollout, a call of the policy."""

    name: str
    run: Callable[[], object]
    batch: int  # rows
    unit: str  # what `per_s` counts
    units: int = 1  # of it in one run
    runs: int = 1  # in one timing, which `run` makes
    beside: Callable[[], object] | None = None  # what is timed in turn with it, for a ratio
    forget: Callable[[], object] | None = None  # empties the cache that `run` fills; then `run` is timed cold, too
    cold_frames: int = 0  # frames that are computed in a cold run
    amortised_frames: float = 0.0  # frames that are computed in a run, on average, at the end of collection


@dataclass(slots=True)
class Timing:
    """Seconds of each timing of a phase, and the arithmetic that torch's counter knew of in one."""

    seconds: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    flops: int = 0
    peak_memory: int | None = None  # bytes

    def entry(self, phase: Phase, peak_flops: float) -> dict[str, Any]:
        """The phase's part of the result; `peak_flops` a second are the machine's matrix product."""
        seconds = [value / phase.runs for value in self.seconds]
        warm = median(seconds)
        frame = max(median(self.cold) - warm, 0.0) / phase.cold_frames if self.cold else 0.0
        middle = warm + frame * phase.amortised_frames
        entry: dict[str, Any] = {
            "median_s": middle,
            "min_s": min(seconds) + (middle - warm),
            "max_s": max(seconds) + (middle - warm),
            "batch": phase.batch,
            "per_s": phase.units / middle,
            "unit": phase.unit,
            "peak_memory_bytes": self.peak_memory,
        }
        if self.flops:
            entry["flops"] = self.flops // phase.runs
            entry["share_of_peak"] = self.flops / phase.runs / warm / peak_flops
        if self.cold:
            entry |= {"warm_median_s": warm, "cold_median_s": median(self.cold), "frame_s": frame}
        if self.beside:
            entry["bare_median_s"] = median(self.beside) / phase.runs
            entry["ratio_to_bare"] = middle / entry["bare_median_s"]
        return entry


def benchmark(
    config: IRISConfig,
    *,
    preset: str | None = None,
    device: torch.device | str = "auto",
    only: Sequence[str] = (),
    batch: int | None = None,
    repeats: int = 5,
    on_phase: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Time the phases of a run with networks that have learned nothing, in the real environment and on stored noise.

    Args:
        config: what to build. Its environment is played in `collect`, and gives the number of actions.
        preset: the name under which the result goes.
        only: names of phases; none means all.
        batch: rows of every phase but `collect`, instead of the config's. No full run is projected then.
        repeats: timings of a phase, after one that warms up and counts operations.
        on_phase: called with the name of each phase when it is done.

    Returns:
        What `--json` writes. `median_s` of the components that read cached frames is amortised over an epoch at the
        end of collection; `warm_median_s` is with every frame cached, `cold_median_s` with none, and `frame_s` what
        one frame costs. `full_run_hours` is by `full_run_formula`, None where a phase of it was not measured.
        `operations_per_imagined_step` are those that torch
        dispatches for policy, world model and decoder, views left out. `peak_memory_bytes` are on the CPU the
        process's own, from its start to the end of the phase: measure a phase alone to know what it takes.

    Raises:
        UsageError: an argument cannot be used.
    """
    _check(only, batch, repeats)
    config.validate()
    chosen_device = choose_device(device)
    names = [name for name in PHASES if not only or name in only]
    timings: list[tuple[Phase, Timing]] = []
    peak_flops = 0.0
    with closing(_make_env(config)) as env, Replay(None, device=chosen_device, chunk_rows=STORED_ROWS) as replay:
        bench = Bench(config if batch is None else _with_batch(config, batch), env, replay, chosen_device, batch)
        for name in names:
            phase = bench.phase(name)
            timings.append((phase, measure(phase, repeats, chosen_device)))
            peak_flops = max(peak_flops, matrix_product_peak(chosen_device))  # a busy machine hides it at times
            if on_phase:
                on_phase(name)
        operations = bench.operations_per_imagined_step() if "imagination" in names else None
        work, frames = bench.work(), bench.frames_computed()
    phases = {phase.name: timing.entry(phase, peak_flops) for phase, timing in timings}
    return {
        "preset": preset,
        "device": str(chosen_device),
        "phases": phases,
        "imagined_steps_per_s": phases["imagination"]["per_s"] if "imagination" in phases else None,
        "operations_per_imagined_step": operations,
        "full_run_hours": full_run_hours(work, phases, frames) if batch is None else None,
        "full_run_work": work,
        "full_run_frames_computed": frames,
        "full_run_formula": FORMULA,
        "matrix_product_flops": peak_flops,
        "repeats": repeats,
        "precision": "float32",
        "threads": torch.get_num_threads(),
        "allocator": process.allocator,
        "machine": machine(chosen_device),
        "config": config.to_dict(),
        "versions": versions(),
    }


class Bench:
    """The collaborators of a run, and what each phase does with them."""

    def __init__(
        self, config: IRISConfig, env: VecEnv, replay: Replay, device: torch.device, batch: int | None = None
    ) -> None:
        self.config = config
        self.env = env
        self.replay = replay
        self.device = device
        self.batch = batch
        self.streams = RandomStreams(0, device)
        assert isinstance(env.action_space, spaces.Discrete)
        self.num_actions = int(env.action_space.n)
        self.models: Models = build_models(config, self.num_actions, device)
        self.policy = Policy(self.models.tokenizer, self.models.actor_critic)
        self.learners = {learner.name: learner for learner in build_learners(config, self.models, self.streams)}
        _fill(replay, self.num_actions)

    def phase(self, name: str) -> Phase:
        if name in self.learners:
            return self._learning(self.learners[name])
        makers = {"collect": self._collect, "imagination": self._imagination, "act": self._act, "dream": self._dream}
        return makers[name]()

    def work(self) -> dict[str, int]:
        """Environment steps (`collect`) and updates of each component in a whole run, as the trainer counts them."""
        trainer = build_trainer(self.config, self.models, self.replay, self.streams)
        return trainer.remaining(self.config.max_env_steps)

    def operations_per_imagined_step(self) -> int:
        """What a rollout of two steps dispatches beyond one of one step."""
        frames, state = self._frames(2), self.policy.initial_state(2)
        counts = [count_operations(lambda length=length: self._imagine(frames, state, length)) for length in (2, 3)]
        return counts[1] - counts[0]

    def frames_computed(self) -> dict[str, float]:
        """Frames that each component has to encode or reconstruct in a whole run, since they are not cached yet."""
        trainer = build_trainer(self.config, self.models, self.replay, self.streams)
        stored = [
            min(epoch * trainer.env_steps_per_epoch, trainer.max_env_steps)
            for epoch in range(1, trainer.epochs_left(trainer.max_env_steps) + 1)
        ]
        tokenizer = self.learners["autoencoder"].plan
        return {
            name: frames_computed(learner.plan, tokenizer, stored)
            for name, learner in self.learners.items()
            if name != "autoencoder"
        }

    def _learning(self, learner: Learner) -> Phase:
        plan, segment = learner.plan, self._segment(learner.plan)
        phase = Phase(
            learner.name,
            lambda: learner.update(self._segment(plan), epoch=1),
            plan.batch_size,
            "updates",
        )
        if learner.name == "autoencoder":
            return phase
        assert segment.rows is not None
        drawn = plan.updates_per_epoch * plan.batch_size * plan.segment_length
        return replace(
            phase,
            forget=self._change_tokenizer,
            cold_frames=len(np.unique(segment.rows[segment.rows >= 0])),
            amortised_frames=distinct(drawn, self.config.max_env_steps) / max(plan.updates_per_epoch, 1),
        )

    def _segment(self, plan: LearnerPlan) -> Segment:
        """Always the same one, so that its frames are cached after the first update."""
        generator = np.random.default_rng(0)
        return self.replay.sample_segments(plan.batch_size, plan.segment_length, generator=generator, align=plan.align)

    @torch.no_grad()
    def _change_tokenizer(self) -> None:
        """By nothing; but it was written to, so whatever is cached of it is stale."""
        next(self.models.tokenizer.parameters()).mul_(1)

    def _collect(self) -> Phase:
        """An epoch's collection, burn-in included."""
        with_replay = Replay(None, device=self.device)
        collector = build_collector(self.config, self.policy, with_replay, self.streams, self.env)
        observations = self.env.reset()
        assert isinstance(observations, np.ndarray)
        collector.reset(observations)
        steps = self.config.env_steps_per_epoch

        def run() -> None:
            collector.begin()
            for _ in range(steps):
                collector.step()

        return Phase("collect", run, self.env.num_envs, "steps", units=self.env.num_envs, runs=steps)

    def _imagination(self) -> Phase:
        rows, horizon = self.config.actor_critic_batch_size, self.config.imagination_horizon
        frames, state = self._frames(rows), self.policy.initial_state(rows)
        steps = rows * (horizon - 1)  # the last step only bootstraps
        return Phase("imagination", lambda: self._imagine(frames, state, horizon), rows, "steps", units=steps)

    def _imagine(self, frames: torch.Tensor, state: Any, horizon: int) -> None:
        dynamics = Dynamics(self.models.tokenizer, self.models.world_model)
        imagine(
            dynamics,
            self.models.actor_critic,
            dynamics.start(unit_frames(frames)),
            state,
            horizon=horizon,
            generator=self.streams.imagining,
        )

    def _act(self) -> Phase:
        rows = self.batch or 1
        frames, state = self._frames(rows), self.policy.initial_state(rows)

        def run() -> None:
            following = state
            for _ in range(ACTIONS_TIMED):
                actions, following = self.policy.act(frames, following, generator=self.streams.predicting)
                actions.cpu()  # an environment would wait for them

        return Phase("act", run, rows, "actions", units=rows, runs=ACTIONS_TIMED)

    def _dream(self) -> Phase:
        """A dream environment over a horizon, and beside it the loop over the dynamics alone."""
        rows, horizon = self.batch or DREAM_ROWS, self.config.imagination_horizon
        frames = self._frames(rows)
        end = self.models.world_model.end_head[-1]
        assert isinstance(end, nn.Linear)
        with torch.no_grad():  # a world model that has learned nothing would end half of the dreams at every step
            end.bias.copy_(torch.tensor([30.0, -30.0]))
        env = build_dream(self.models, rows, env_id=self.config.env, start_frames=frames, horizon=horizon)
        actions = torch.randint(self.num_actions, (horizon, rows), device=self.device)

        def run() -> None:
            env.reset(seed=0)
            for action in actions:
                env.step(action)

        def bare() -> None:
            state = env.dynamics.start(unit_frames(frames))
            for action in actions:
                state, _ = env.dynamics.step(state, action, generator=self.streams.imagining)

        return Phase("dream", run, rows, "steps", units=rows * horizon, beside=bare)

    def _frames(self, rows: int) -> torch.Tensor:
        """Stored frames (rows, 3, 64, 64) uint8."""
        return self.replay.sample_segments(rows, 1, generator=self.streams.sampling, align="start").frames[:, 0]


# -------------------------------------------------------------------- measuring


def measure(phase: Phase, repeats: int, device: torch.device) -> Timing:
    """Time a phase `repeats` times, after a run that warms up and counts its arithmetic."""
    timing = Timing()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if phase.forget:
        phase.run()
    with FlopCounterMode(display=False) as counter:
        phase.run()
    timing.flops = counter.get_total_flops()
    for _ in range(repeats):
        if phase.forget:
            phase.forget()
            timing.cold.append(timed(phase.run, device))
        timing.seconds.append(timed(phase.run, device))
        if phase.beside:
            timing.beside.append(timed(phase.beside, device))
    timing.peak_memory = peak_memory(device)
    return timing


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that `run` takes, with all that it leaves the device to do."""
    _wait_for(device)
    begun = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - begun


def matrix_product_peak(device: torch.device) -> float:
    """Floating-point operations a second of the fastest of some products of two square float32 matrices."""
    size = PEAK_SIZE.get(device.type, PEAK_SIZE["cpu"])
    left, right = torch.rand(2, size, size, device=device)
    fastest = min(timed(lambda: left @ right, device) for _ in range(PEAK_TRIES))
    return 2 * size**3 / fastest


def peak_memory(device: torch.device) -> int | None:
    """Bytes: on a GPU those allocated since the last reset of its peak, on a CPU the process's since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # no Unix
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class OperationCounter(TorchDispatchMode):
    """Counts the operations that torch dispatches, but for views, which compute nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> int:
    with OperationCounter() as counter:
        run()
    return counter.count


# -------------------------------------------------------------------- the whole run


def full_run_hours(
    work: Mapping[str, int], phases: Mapping[str, Mapping[str, Any]], frames: Mapping[str, float]
) -> float | None:
    """Hours for `work`, counts by phase, and for `frames` that are not cached; `FORMULA`.

    None where a phase that has work was not measured.
    """
    needed = {name: count for name, count in work.items() if count}
    if not needed.keys() <= phases.keys():
        return None
    seconds = 0.0
    for name, count in needed.items():
        entry = phases[name]
        seconds += count * entry.get("warm_median_s", entry["median_s"])
        seconds += frames.get(name, 0.0) * entry.get("frame_s", 0.0)
    return seconds / 3600


def frames_computed(plan: LearnerPlan, tokenizer: LearnerPlan, stored: Sequence[int]) -> float:
    """Frames that a component has to compute over epochs with `stored` frames each, by the plans of both.

    What an epoch has computed is kept until the tokenizer learns again. Each component counts by itself, although
    the actor-critic finds some of its tokens with the world model: a little too much rather than too little.
    """
    computed, drawn, known = 0.0, 0, 0.0
    for epoch, frames in enumerate(stored, 1):
        if tokenizer.updates_in(epoch):
            drawn, known = 0, 0.0
        drawn += plan.updates_in(epoch) * plan.batch_size * plan.segment_length
        now = max(distinct(drawn, frames), known)
        computed, known = computed + now - known, now
    return computed


def distinct(drawn: int, stored: int) -> float:
    """How many different ones there are among `drawn` of `stored` things, on average."""
    return stored * (1 - math.exp(-drawn / stored))


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() + " CPU"


# -------------------------------------------------------------------- small things


def _check(only: Sequence[str], batch: int | None, repeats: int) -> None:
    unknown = [name for name in only if name not in PHASES]
    if unknown:
        raise UsageError(f"only={unknown[0]!r} is no phase; choose from {', '.join(PHASES)}")
    if batch is not None and not 1 <= batch <= LARGEST["autoencoder_batch_size"]:
        raise UsageError(
            f"batch={batch} must be greater than 0 and at most {LARGEST['autoencoder_batch_size']}, or left out"
        )
    if repeats < 1:
        raise UsageError(f"repeats={repeats} must be greater than 0")


def _make_env(config: IRISConfig) -> VecEnv:
    return make_vec_env(config.env, 1, atari_100k=config.atari_100k, preprocessing=config.preprocessing, seed=0)


def _with_batch(config: IRISConfig, batch: int) -> IRISConfig:
    sizes = ("autoencoder_batch_size", "transformer_batch_size", "actor_critic_batch_size")
    return config.replace(**dict.fromkeys(sizes, batch))


def _fill(replay: Replay, num_actions: int) -> None:
    """Noise, in one long episode."""
    noise = np.random.default_rng(0)
    for frame in noise.integers(256, size=(STORED_ROWS, *FRAME_SHAPE), dtype=np.uint8):
        replay.append(frame, int(noise.integers(num_actions)), 0.0, terminated=False, truncated=False)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

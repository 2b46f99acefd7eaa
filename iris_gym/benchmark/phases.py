"""What is timed: the phases of a run, with networks that have learned nothing."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from iris_gym.accelerate import inference, products
from iris_gym.assembly import (
    Models,
    build_acting,
    build_collector,
    build_dream,
    build_dynamics,
    build_imagination,
    build_imitation,
    build_learners,
    build_models,
    build_replay,
    build_trainer,
    freeze,
    training_dtype,
)
from iris_gym.benchmark.measuring import Precision, count_operations, timed
from iris_gym.benchmark.noise import fill_with_noise
from iris_gym.benchmark.projection import Computed, Reader, frames_computed
from iris_gym.config import IRISConfig
from iris_gym.data.replay import Replay
from iris_gym.envs import make_vec_env
from iris_gym.functional import unit_frames
from iris_gym.nn.perceptual import PerceptualDistance, UntrainedLPIPS
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.learner import Learner, LearnerPlan
from iris_gym.training.losses import imagine
from iris_gym.training.novelty import MOST_ROWS
from iris_gym.training.randomness import RandomStreams
from iris_gym.types import Segment

PhaseName = Literal["collect", "autoencoder", "world_model", "imagination", "actor_critic", "act", "dream"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)

DREAM_ROWS = 64
ACTIONS_TIMED = 20
"""Calls of the policy in one timing, since one alone is short."""
LATER = 1_000_000
"""An epoch in which every component learns as in most: behind its first one."""
STORED_ROWS = 8192
"""Transitions of noise that the learners draw from, many beside a batch: no phase takes longer for what it sees."""


@dataclass(frozen=True)
class CacheUse:
    """What an update takes from the frame cache. Kinds of work are `encode` and `reconstruct`."""

    forget: Callable[[], object]  # empties the cache; the next update is cold
    cold_frames: int  # frames that are computed in a cold update
    amortised: dict[str, float]  # by kind: frames that are computed in an update, on average, as collection ends
    frame_seconds: Callable[[str, int], float]  # kind, count → seconds a frame where about so many are computed at once


@dataclass(frozen=True)
class Phase:
    """What is timed. `median_s` is of one run: an environment step, an update, a rollout, a call of the policy."""

    name: str
    run: Callable[[], object]
    batch: int  # rows
    unit: str  # what `per_s` counts
    units: int = 1  # of it in one run
    runs: int = 1  # in one timing, which `run` makes
    precision: Precision = "float32"  # of most of its arithmetic
    beside: Callable[[], object] | None = None  # what is timed in turn with it, for a ratio
    cache: CacheUse | None = None  # that `run` fills; then it is timed cold, too


def precision_of(name: str, config: IRISConfig, device: torch.device) -> Precision:
    """The precision of most of the arithmetic of a phase, whose peak its share is taken of."""
    if name != "dream" and training_dtype(config, device) == torch.bfloat16:
        return "bf16"
    updates = name not in ("collect", "act", "dream")
    return "tf32" if updates and config.accelerate and device.type == "cuda" else "float32"


def readers(plans: Mapping[str, LearnerPlan], config: IRISConfig) -> list[Reader]:
    """Who reads stored frames through the cache, in the order in which they learn. Nobody where nothing is kept, and
    each update is timed with all that it computes."""
    if not config.cache_frames:
        return []
    world_model, actor_critic = plans["world_model"], plans["actor_critic"]
    lived, start, stretch = config.lived_rows, actor_critic.segment_length, config.burn_in + config.imagination_horizon
    counts = MOST_ROWS if config.novelty_weight else 0
    found = [
        Reader("world_model", world_model, world_model.batch_size, world_model.segment_length),
        Reader("actor_critic", actor_critic, actor_critic.batch_size - lived, start, pictures=start, counts=counts),
    ]
    if lived:
        among = config.imitated_episodes
        found.append(Reader("actor_critic", actor_critic, lived, stretch, pictures=stretch, among=among))
    return found


def bench_env(config: IRISConfig) -> VecEnv:
    return make_vec_env(config.env, 1, atari_100k=config.atari_100k, preprocessing=config.preprocessing, seed=0)


def num_actions(env: VecEnv) -> int:
    assert isinstance(env.action_space, spaces.Discrete)
    return int(env.action_space.n)


def models_to_time(config: IRISConfig, num_actions: int, device: torch.device) -> Models:
    """The models of a config; LPIPS takes as long with random weights, and those are always at hand."""
    models = build_models(config, num_actions, device)
    models.tokenizer.perceptual_distance = PerceptualDistance(UntrainedLPIPS)
    return models


def with_batch(config: IRISConfig, batch: int) -> IRISConfig:
    """The same with `batch` rows in each update. Where these are too few to be dreamt and lived, they are dreamt."""
    sizes = ("autoencoder_batch_size", "transformer_batch_size", "actor_critic_batch_size")
    changed = config.replace(**dict.fromkeys(sizes, batch))
    return changed if 0 < changed.lived_rows < batch else changed.replace(imitation_share=0.0)


class Bench:
    """The collaborators of a run, and what each phase does with them. Fills an empty replay with noise."""

    def __init__(
        self, config: IRISConfig, env: VecEnv, replay: Replay, device: torch.device, batch: int | None = None
    ) -> None:
        self.config = config
        self.env = env
        self.replay = replay
        self.device = device
        self.batch = batch
        self.streams = RandomStreams(0, device)
        self.num_actions = num_actions(env)
        self.models = models_to_time(config, self.num_actions, device)
        self.policy = build_acting(config, self.models)
        if not len(replay):
            fill_with_noise(replay, STORED_ROWS, self.num_actions)
        # Without novelty, whose counting is an epoch's work, not that of the update that happens to be the first.
        learners = build_learners(config.replace(novelty_weight=0.0), self.models, self.streams, replay)
        self.learners = {learner.name: learner for learner in learners}
        self.trainer = build_trainer(config, self.models, replay, self.streams)
        self.frozen = freeze(config, self.models)
        self.cache = FrameCache(self.models.tokenizer, self.frozen.tokenizer)

    def phase(self, name: str) -> Phase:
        makers = {"collect": self._collect, "imagination": self._imagination, "act": self._act, "dream": self._dream}
        made = self._learning(self.learners[name]) if name in self.learners else makers[name]()
        return replace(made, precision=precision_of(name, self.config, self.device))

    def work(self) -> dict[str, int]:
        """Environment steps (`collect`) and updates of each component in a whole run, as the trainer counts them."""
        return self.trainer.remaining(self.config.max_env_steps)

    @cached_property
    def computed(self) -> list[dict[str, Computed]]:
        """Frames that each component encodes and reconstructs, in each epoch of a whole run."""
        steps, most = self.config.env_steps_per_epoch, self.config.max_env_steps
        stored = [min(epoch * steps, most) for epoch in range(1, self.trainer.epochs_left(most) + 1)]
        plans = {name: learner.plan for name, learner in self.learners.items()}
        return frames_computed(readers(plans, self.config), plans["autoencoder"], stored)

    def computed_in_all(self) -> dict[str, Computed]:
        names = self.computed[0]
        return {name: sum((epoch[name] for epoch in self.computed), Computed()) for name in names}

    def operations_per_imagined_step(self) -> int:
        """What a rollout of two steps dispatches beyond one of one step."""
        inputs = self._inputs(2)
        dynamics, generator = build_dynamics(self.models, self.frozen), self.streams.imagining
        plain = [imagine(dynamics, self.models.actor_critic, horizon=length, generator=generator) for length in (2, 3)]
        with self._as_in_an_update():
            one, two = (count_operations(lambda rollout=rollout: rollout(*inputs)) for rollout in plain)
        return two - one

    @torch.no_grad()
    def operations_per_transformer_pass(self) -> int:
        """What reading one more token a row dispatches in a rollout, embedding and heads left out."""
        transformer = build_dynamics(self.models, self.frozen).world_model.transformer
        cache = transformer.empty_cache(2)
        token = cache.keys_values.new_zeros(2, 1, self.config.transformer_embed_dim)
        return count_operations(lambda: transformer.forward_cached(token, cache))

    def _learning(self, learner: Learner) -> Phase:
        """Updates on always the same segments, so that their frames are cached after the first."""
        plan, sampling = learner.plan, self.streams.sampling.bit_generator
        begun = sampling.state

        def run() -> None:
            sampling.state = begun  # what is imitated is drawn in the update
            learner.update(self._segment(plan), LATER)

        cache = self._cache_use(learner) if learner.name in self.computed[0] else None
        return Phase(learner.name, run, plan.batch_size, "updates", cache=cache)

    def _cache_use(self, learner: Learner) -> CacheUse:
        last = min(-(-self.config.max_env_steps // self.config.env_steps_per_epoch), len(self.computed))
        an_update = self.computed[last - 1][learner.name] / max(learner.plan.updates_in(last), 1)
        amortised = {"encode": an_update.encoded}
        if learner.name == "actor_critic":
            amortised["reconstruct"] = an_update.reconstructed
        return CacheUse(self._change_tokenizer, self._cold_frames(learner), amortised, self._frame_seconds)

    def _cold_frames(self, learner: Learner) -> int:
        """The different frames that an update reads."""
        segments = [self._segment(learner.plan)]
        if learner.name == "actor_critic" and self.config.imitation_share:
            imitation = build_imitation(self.config, self.models, self.cache, self.streams, self.replay)
            if (lived := imitation.draw()) is not None:
                segments = [segments[0].take(slice(-imitation.rows)), lived]
        rows = [segment.rows.flatten() for segment in segments if segment.rows is not None]
        return len(_distinct(np.concatenate(rows)))

    def _frame_seconds(self, kind: str, count: int) -> float:
        segment = self.replay.sample_segments(count, 1, generator=np.random.default_rng(0), align="start")
        assert segment.rows is not None
        self._change_tokenizer()
        with self._as_in_an_update():
            compute = self.cache.tokens
            if kind == "reconstruct":
                compute(segment)  # to time the decoder alone
                compute = self.cache.reconstructions
            return timed(lambda: compute(segment), self.device) / len(_distinct(segment.rows))

    def _segment(self, plan: LearnerPlan) -> Segment:
        return plan.draw(self.replay, np.random.default_rng(0), LATER)

    @torch.no_grad()
    def _change_tokenizer(self) -> None:
        """By nothing; but it was written to, so whatever is cached of it is stale."""
        next(self.models.tokenizer.parameters()).mul_(1)

    def _collect(self) -> Phase:
        """An epoch's collection, burn-in included."""
        with_replay = build_replay(self.config, None, device=self.device)
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
        inputs = self._inputs(rows)
        imagination = build_imagination(self.config, self.models, self.frozen, self.streams.imagining)
        steps = rows * (horizon - 1)  # the last step only bootstraps

        def run() -> None:
            with self._as_in_an_update():
                imagination(*inputs)

        return Phase("imagination", run, rows, "steps", units=steps)

    def _as_in_an_update(self) -> contextlib.AbstractContextManager[None]:
        return products(tf32=self.config.accelerate)

    def _inputs(self, rows: int) -> tuple[torch.Tensor, ...]:
        """Start frames as tokens and as pictures, and the LSTM's state."""
        pictures = unit_frames(self._frames(rows))
        return self.policy.tokenizer.encode(pictures), pictures, *self.policy.initial_state(rows)

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

        @inference  # as in the environment
        def bare() -> None:
            state = env.dynamics.start(unit_frames(frames))
            for action in actions:
                state, _ = env.dynamics.step(state, action, generator=self.streams.imagining)

        return Phase("dream", run, rows, "steps", units=rows * horizon, beside=bare)

    def _frames(self, rows: int) -> torch.Tensor:
        """Stored frames (rows, 3, 64, 64) uint8."""
        return self.replay.sample_segments(rows, 1, generator=self.streams.sampling, align="start").frames[:, 0]


def _distinct(rows: np.ndarray) -> np.ndarray:
    """The different ones of `rows` that are not padded."""
    return np.unique(rows[rows >= 0])

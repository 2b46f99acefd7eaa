"""The dream as a vector environment of Gymnasium, on the device."""

import copy
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.dream.episodes import Episodes, as_arrays, final_info
from iris_gym.dream.inputs import (
    ObsType,
    Output,
    StartFrames,
    as_actions,
    as_autoreset_mode,
    as_initial_frames,
    as_mask,
    check_arguments,
    start_source,
)
from iris_gym.errors import UsageError
from iris_gym.functional import on_device, stored_frames, unit_frames
from iris_gym.imagination.dynamics import DreamState, Dynamics
from iris_gym.types import FRAME_SIZE

RENDER_FPS = 15
"""Of a game of 60 frames a second whose actions are repeated for four of them."""

MIN_POOL = 16
"""Starts that are prepared at least, so that few rows do not begin at the same frame again and again."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Starts prepared for rows that end: S frames, read by the transformer."""

    starts: DreamState
    observations: Tensor  # (S, …), as the environment shows them
    drawn_at: int  # the environment's count of steps


@dataclass(frozen=True, slots=True)
class DreamSnapshot:
    """Where all rows of a dream stand, random states included; nothing in it is ever changed."""

    dream: DreamState
    episodes: Episodes
    ended: Tensor  # (N,) bool, rows whose episode ended in the last step
    obs_type: ObsType  # of the pool's observations
    pool: Pool | None
    steps: int
    clock: float
    generator: Tensor
    np_random: dict[str, Any]


class DreamVectorEnv(VectorEnv):
    """N dreams of a world model, side by side on its device. What acts in them need not know that they are dreams.

    Rewards are the predicted signs, -1, 0 or 1, float32. `terminated` is the predicted end, `truncated` says that
    `horizon` steps have passed. Rows begin, end, and outgrow the transformer's context each on their own.

    In a step nothing is asked of a device other than the CPU, but for whether a context is full, once one may be; a
    finite `horizon` below the world model's `timesteps` never fills one in `SAME_STEP` mode. So on such a device the
    information of a torch output always has the keys `episode`, `final_obs` and `final_info`, and the masks
    `_episode`, `_final_obs` and `_final_info` say for which rows they count. Everywhere else the keys are there when
    an episode ended, as in Gymnasium's own environments.

    Args:
        dynamics: the networks. They are shared, not copied; when they learn on, reset.
        num_envs: N.
        start_frames: where dreams begin: uint8 images, channels first or last, of which each row gets one uniformly;
            or a callable (count, `np.random.Generator`) → frames (count, 3, 64, 64) uint8.
        horizon: steps after which an episode is truncated. None: never.
        autoreset_mode: Gymnasium's, as enum or as string. In `DISABLED` mode a row that is not reset after its end
            dreams on.
        output: tensors on the device, or NumPy arrays.
        obs_type: `pixels` (N, 64, 64, 3) uint8; `tokens` (N, K) int64; or `latent` (N, K, `token_embedding_dim`)
            float32, the codebook's vectors of these tokens. The last two need no decoder.
        temperature: of frames, rewards and ends; 0 is greedy.
        greedy: take the likeliest frame tokens, reward and end, whatever the temperature.
        overflow_context: frames that a row keeps when its context is full. None: half the context.
        log_probs: whether `info["log_prob"]` (N,) gives the log-probability of the frame's tokens under the world
            model, at temperature 1 however they were drawn: how little the dream surprises itself.
        episode_statistics: whether `info["episode"]` is given. Gymnasium's `RecordEpisodeStatistics`, which does the
            same and takes NumPy arrays alone, needs it to be False.
        render_mode: `rgb_array` or None.

    Raises:
        UsageError: an argument cannot be used.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}

    def __init__(
        self,
        dynamics: Dynamics,
        num_envs: int,
        *,
        start_frames: Tensor | np.ndarray | StartFrames,
        horizon: int | None = 20,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        output: Output = "torch",
        obs_type: ObsType = "pixels",
        temperature: float = 1.0,
        greedy: bool = False,
        overflow_context: int | None = None,
        log_probs: bool = False,
        episode_statistics: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_arguments(num_envs, horizon, output, obs_type, temperature, render_mode)
        self.dynamics = dynamics.with_options(
            overflow_context=overflow_context, temperature=0.0 if greedy else temperature
        )
        self.device = dynamics.device
        self.num_envs = int(num_envs)
        self.start_frames = start_source(start_frames)
        self.horizon = horizon
        self.autoreset_mode = as_autoreset_mode(autoreset_mode)
        self.output = output
        self.obs_type: ObsType = obs_type
        self.log_probs = log_probs
        self.episode_statistics = episode_statistics
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode, "torch": output == "torch"}
        self.single_observation_space = self._single_observation_space()
        self.single_action_space = spaces.Discrete(dynamics.num_actions)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._may_ask = self.device.type == "cpu" or output == "numpy"
        self._generator: torch.Generator | None = None
        self._dream: DreamState | None = None
        self._pool: Pool | None = None
        self._steps = 0
        self._clock = time.perf_counter()

    # ---------------------------------------------------------------- Gymnasium's contract

    @inference
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin new dreams, in all rows or in some, and return the observations of all.

        Args:
            seed: of everything random from here on. Then the same actions give the same dreams, on the CPU bit for
                bit, whatever else uses the random states of torch and NumPy. Rows share one random stream, so a seed
                with a mask concerns the other rows too. None: the streams go on.
            options: `reset_mask` (N,) bool, array or tensor: the rows to reset. `initial_frames` (N, 64, 64, 3)
                uint8: where to begin; always all rows, and those in the mask are used.

        Raises:
            ClosedEnvironmentError: after `close`.
            ResetNeeded: a mask leaves rows out that have never been reset.
            TypeError, UsageError: an option cannot be used.
        """
        self._check_open("reset")
        options = options or {}
        mask, rows = self._rows_to_reset(options.get("reset_mask"))
        given = options.get("initial_frames")
        frames = None if given is None else as_initial_frames(given, self.num_envs)
        super().reset(seed=seed)
        self._seed_generator(anew=seed is not None)
        whole = len(rows) == self.num_envs
        if whole or seed is not None:
            self._pool = None
        starts = self._prepare(self.start_frames(len(rows), self.np_random) if frames is None else frames[rows.cpu()])
        if whole:
            self._blank()
        chosen = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        chosen[rows] = torch.arange(len(rows), device=self.device)
        self._restart(mask, starts, chosen)
        self._ended = self._ended & ~mask
        return self._out(self._observe(self._current)), {}

    @inference
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take an action (N,) of integers, as array or tensor, in each row.

        Returns:
            observations, rewards (N,) float32, terminated (N,) bool, truncated (N,) bool, and the information:
            `log_prob`, and of episodes that ended `episode` with return "r", length "l" and seconds "t"; in
            `SAME_STEP` mode also `final_obs` and `final_info`.

        Raises:
            ClosedEnvironmentError: after `close`.
            ResetNeeded: before the first `reset`.
            InvalidAction: shape, dtype or value is not the action space's.
        """
        dream = self._running("step")
        chosen = as_actions(actions, self.num_envs, self.dynamics.num_actions, self.device)
        self._dream, outcome = self.dynamics.advance(dream, chosen, generator=self._generator, log_probs=self.log_probs)
        self._steps += 1
        observations = self._observe(self._current)
        fresh = self._ended if self.autoreset_mode is AutoresetMode.NEXT_STEP else None
        rewards = outcome.reward if fresh is None else outcome.reward.masked_fill(fresh, 0)
        self._episodes = self._episodes.after(rewards)
        terminated, truncated = outcome.end, self._truncated(self._episodes.lengths)
        info: dict[str, Any] = {}
        if outcome.log_prob is not None:
            info |= self._log_prob_info(outcome.log_prob, fresh)
        if fresh is not None:
            observations = self._autoreset(fresh, observations)
            terminated, truncated = terminated & ~fresh, truncated & ~fresh
        self._ended = terminated | truncated
        if self._may_hold(self._ended):
            if self.episode_statistics:
                info |= self._episodes.info(self._ended, self._now())
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                info |= final_info(self._ended, observations, info)
                observations = self._autoreset(self._ended, observations)
        self._bound_lengths()
        return (
            self._out(observations),
            self._out(rewards),
            self._out(terminated),
            self._out(truncated),
            info if self.output == "torch" else as_arrays(info),
        )

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frame of each row, (64, 64, 3) uint8 arrays; None without a `render_mode`."""
        if self.render_mode is None:
            gym.logger.warn("render() was called, but the dream was made without render_mode='rgb_array'")
            return None
        self._running("render")
        return tuple(self._pixels(self._current).cpu().numpy())

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the dreams and of what was prepared for them."""
        self._dream = self._pool = None

    # ---------------------------------------------------------------- branching

    @inference
    def get_state(self) -> DreamSnapshot:
        """Where all rows stand. No weights are copied, and of the transformer's memory only what was read."""
        dream = self._running("get_state")
        assert self._generator is not None
        return DreamSnapshot(
            dream=DreamState(dream.frame_tokens, dream.between, dream.cache.compact()),
            episodes=self._episodes,
            ended=self._ended,
            obs_type=self.obs_type,
            pool=self._pool,
            steps=self._steps,
            clock=self._now(),
            generator=self._generator.get_state(),
            np_random=dict(copy.deepcopy(self.np_random.bit_generator.state)),
        )

    @inference
    def set_state(self, state: DreamSnapshot, *, seed: int | None = None) -> None:
        """Go back to where `get_state` was called, here or in another dream of as many rows and the same `obs_type`.

        The same actions then lead to the same dream; with a `seed` to another one from the same point.
        """
        self._check_open("set_state")
        self._check_snapshot(state)
        super().reset(seed=seed)
        generator = self._seed_generator(anew=seed is not None)
        if seed is None:
            self.np_random.bit_generator.state = copy.deepcopy(state.np_random)
            generator.set_state(state.generator)
        blank = self._blank()
        blank.cache.put(torch.arange(self.num_envs, device=self.device), state.dream.cache)
        self._dream = DreamState(state.dream.frame_tokens, state.dream.between, blank.cache)
        self._bounded = blank.cache.longest <= self._bound  # it may be of a dream with a longer horizon, or none
        self._episodes, self._ended = state.episodes, state.ended
        self._pool, self._steps = state.pool, state.steps
        self._clock = time.perf_counter() - state.clock

    def _check_snapshot(self, state: DreamSnapshot) -> None:
        if not isinstance(state, DreamSnapshot):
            raise UsageError(f"state={state!r} is nothing that get_state gave")
        if len(state.ended) != self.num_envs:
            raise UsageError(f"state is of {len(state.ended)} rows; this dream has {self.num_envs}")
        if state.obs_type != self.obs_type:
            raise UsageError(f"state is of a dream of obs_type={state.obs_type!r}; this one has {self.obs_type!r}")
        if not self.dynamics.fits(state.dream):
            raise UsageError("state is of a dream of other networks; give it to one of an agent of the same sizes")

    # ---------------------------------------------------------------- beginning

    def _rows_to_reset(self, given: Any) -> tuple[Tensor, Tensor]:
        """The mask (N,), and the rows in it as numbers."""
        if given is None:
            mask = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        else:
            mask = as_mask(given, self.num_envs, self.device)
        rows = mask.nonzero().squeeze(1)
        if self._dream is None and len(rows) < self.num_envs:
            raise ResetNeeded("reset all rows once before a reset_mask leaves some out")
        return mask, rows

    def _seed_generator(self, *, anew: bool) -> torch.Generator:
        if self._generator is None or anew:
            self._generator = torch.Generator(self.device)
            self._generator.manual_seed(int(self.np_random.integers(2**63)))
        return self._generator

    def _blank(self) -> DreamState:
        """Let all rows stand nowhere; the cache's memory is used again."""
        self._dream = self.dynamics.blank(self.num_envs, self._dream.cache if self._dream else None)
        self._episodes = Episodes.none(self.num_envs, self.device)
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._bounded = True
        return self._dream

    def _prepare(self, frames: Tensor) -> DreamState:
        there = on_device(frames.numpy(), self.device) if frames.device.type == "cpu" else frames.to(self.device)
        return self.dynamics.prepare(unit_frames(there))

    def _restart(self, mask: Tensor, starts: DreamState, chosen: Tensor) -> None:
        self._dream = self.dynamics.restart(self._running("reset"), mask, starts, chosen)
        self._episodes = self._episodes.restarted(mask, self._now())

    def _autoreset(self, mask: Tensor, observations: Tensor) -> Tensor:
        """Begin new dreams in the rows of a mask (N,); returns the observations (N, …) with theirs in place."""
        if not self._may_hold(mask):
            return observations
        pool = self._pool = self._fresh_pool()
        count = len(pool.observations)
        chosen = torch.randint(count, (self.num_envs,), generator=self._generator, device=self.device)
        self._restart(mask, pool.starts, chosen)
        here = mask.view(-1, *[1] * (observations.ndim - 1))
        return torch.where(here, pool.observations[chosen], observations)

    def _fresh_pool(self) -> Pool:
        """The prepared starts, drawn anew when as many steps have passed as a short episode has.

        A pool, because which rows have ended, and how many, need not be asked of the device then.
        """
        timesteps = self.dynamics.world_model.timesteps
        keep = timesteps if self.horizon is None else min(self.horizon, timesteps)
        if self._pool is not None and self._steps - self._pool.drawn_at < keep:
            return self._pool
        starts = self._prepare(self.start_frames(max(self.num_envs, MIN_POOL), self.np_random))
        return Pool(starts, self._observe(starts.frame_tokens[:, -1]), self._steps)

    @property
    def _bound(self) -> int:
        """Tokens that no row between two steps has read more than; the context's where ends are not certain."""
        world_model = self.dynamics.world_model
        steps = world_model.timesteps
        if self.horizon is not None and self.autoreset_mode is not AutoresetMode.DISABLED:
            steps = self.horizon - (self.autoreset_mode is AutoresetMode.SAME_STEP)
        return world_model.tokens_per_frame - 1 + steps * world_model.tokens_per_step

    def _bound_lengths(self) -> None:
        """Tell the cache, so that nobody asks whether a row is full where none can be."""
        if self._bounded:
            cache = self._running("step").cache
            cache.longest = min(cache.longest, self._bound)

    # ---------------------------------------------------------------- observing

    @property
    def _current(self) -> Tensor:
        """The tokens (N, K) of the current frames."""
        return self._running("step").frame_tokens[:, -1]

    def _observe(self, tokens: Tensor) -> Tensor:
        if self.obs_type == "pixels":
            return self._pixels(tokens)
        if self.obs_type == "tokens":
            return tokens.clone()
        return self.dynamics.tokenizer.quantizer.embed(tokens)

    @inference
    def _pixels(self, tokens: Tensor) -> Tensor:
        """Tokens (N, K) to images (N, 64, 64, 3) uint8."""
        return stored_frames(self.dynamics.tokenizer.decode(tokens)).permute(0, 2, 3, 1).contiguous()

    def _single_observation_space(self) -> spaces.Space:
        world_model = self.dynamics.world_model
        count, vocab_size = world_model.tokens_per_frame, world_model.frame_embedding.num_embeddings
        if self.obs_type == "pixels":
            return spaces.Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        if self.obs_type == "tokens":
            return spaces.MultiDiscrete([vocab_size] * count)
        code = self.dynamics.tokenizer.quantizer.embed(torch.zeros(1, dtype=torch.int64, device=self.device))
        return spaces.Box(-np.inf, np.inf, (count, code.shape[-1]), np.float32)

    # ---------------------------------------------------------------- information

    def _truncated(self, lengths: Tensor) -> Tensor:
        return torch.zeros_like(lengths, dtype=torch.bool) if self.horizon is None else lengths >= self.horizon

    def _log_prob_info(self, log_prob: Tensor, fresh: Tensor | None) -> dict[str, Any]:
        """A row that was only reset in this step has none."""
        if fresh is None:
            return {"log_prob": log_prob, "_log_prob": torch.ones_like(log_prob, dtype=torch.bool)}
        return {"log_prob": log_prob.masked_fill(fresh, 0), "_log_prob": ~fresh}

    def _out(self, value: Tensor) -> Any:
        return value if self.output == "torch" else value.cpu().numpy()

    # ---------------------------------------------------------------- order of calls

    def _check_open(self, name: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{name} was called after close")

    def _running(self, name: str) -> DreamState:
        self._check_open(name)
        if self._dream is None:
            raise ResetNeeded(f"{name} was called before reset")
        return self._dream

    def _may_hold(self, mask: Tensor) -> bool:
        """Whether anything in a mask is True; yes, where asking would stall the device."""
        return not self._may_ask or bool(mask.any())

    def _now(self) -> float:
        return time.perf_counter() - self._clock

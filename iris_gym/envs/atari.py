"""Atari games under the Atari 100k protocol (Kaiser et al. 2020; Micheli et al. 2023, appendix).

The minimal action set, no sticky actions, every action repeated for 4 raw frames with rewards summed, no reward
clipping, the pixelwise maximum of the last two raw frames, RGB 64×64. In training a game starts with 1 to 30 random
no-ops, is cut after 20,000 raw frames, and a lost life ends an episode while the game goes on. In evaluation a whole
game starts with exactly one no-op and is cut after 108,000 raw frames. No-ops count as raw frames.

There are two paths. `make_atari` shows what the published agents saw: each raw frame is resized *before* the maximum.
`AtariVecEnv` is faster and close to it: ALE takes the maximum first and resizes by area.
"""

import time
from collections import deque
from dataclasses import dataclass
from functools import reduce
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv, NoopResetEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from iris_gym.envs.preprocessing import IMAGE_SHAPE, image_space, resize
from iris_gym.envs.registry import find_spec, make
from iris_gym.errors import UsageError
from iris_gym.types import FRAME_SIZE

ACTION_REPEAT = 4
NOOP = 0


@dataclass(frozen=True, slots=True)
class Protocol:
    """What differs between training and evaluation."""

    max_frames: int  # raw frames a game, no-ops included
    noop_max: int  # a game starts with 1 to noop_max no-ops
    life_loss_ends: bool  # whether an episode ends with a lost life


TRAINING = Protocol(max_frames=20_000, noop_max=30, life_loss_ends=True)
EVALUATION = Protocol(max_frames=108_000, noop_max=1, life_loss_ends=False)


def is_atari(env_id: str) -> bool:
    """Whether `env_id` is, or by its namespace `ALE/` means to be, an Atari game."""
    name = env_id.rpartition(":")[2]
    spec = gym.registry.get(name)
    return name.startswith("ALE/") or (spec is not None and spec.entry_point == "ale_py.env:AtariEnv")


def make_atari(env_id: str, *, evaluation: bool = False, render_mode: str | None = None) -> gym.Env:
    """One Atari game as the published agents saw it, (64, 64, 3) uint8.

    When a whole game ends, `info["episode"]` holds its unclipped return "r", its length "l" in agent steps and its
    time "t". If it ends within the no-op step that follows a lost life, `reset` returns it in its info.

    Raises:
        UsageError: there is no such game, or it has no such `render_mode`.
    """
    protocol = EVALUATION if evaluation else TRAINING
    env = make(
        _find_game(env_id),
        frameskip=1,
        repeat_action_probability=0.0,
        full_action_space=False,
        max_num_frames_per_episode=protocol.max_frames,  # ALE counts no-ops, and does not count anew after a life
        render_mode=render_mode,
        disable_env_checker=True,  # ALE's environments need no check on every raw frame
    )
    # Monitor counts agent steps of whole games, therefore it lies above the repeat and below the episodes of a life.
    env = Monitor(RepeatAction(NoopResetEnv(env, protocol.noop_max)))
    return EpisodicLife(env) if protocol.life_loss_ends else env


def _find_game(env_id: str) -> EnvSpec:
    spec = find_spec(env_id)
    if not is_atari(env_id):
        raise UsageError(f"env: {env_id!r} is not an Atari game; give an id such as ALE/Pong-v5")
    return spec


class RepeatAction(gym.Wrapper):
    """Repeats an action for 4 raw frames and sums the rewards; observes the maximum of the last two, each resized.

    Where the game ends within the four, the last two are those that were seen; where only one was seen, that one.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = image_space()

    def step(self, action: Any) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        frames: deque[np.ndarray] = deque(maxlen=2)
        total_reward, terminated, truncated, info = 0.0, False, False, {}
        for _ in range(ACTION_REPEAT):
            frame, reward, terminated, truncated, info = self.env.step(action)
            frames.append(frame)
            total_reward += float(reward)
            if terminated or truncated:
                break
        return reduce(np.maximum, map(resize, frames)), total_reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        frame, info = self.env.reset(seed=seed, options=options)
        return resize(frame), info


class EpisodicLife(EpisodicLifeEnv):
    """Ends an episode with every lost life, while the game goes on from one no-op step.

    Two things differ from Stable-Baselines3: `reset` with a seed starts a new game, for the seed would have no effect
    otherwise, and the record of a game that ends within the no-op step is in the info of `reset` instead of lost.
    """

    def reset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        if self.was_real_done or seed is not None:
            observation, info = self.env.reset(seed=seed, options=options)
        else:
            observation, info = self._go_on(options)
        self.lives = self.env.unwrapped.ale.lives()  # pyright: ignore[reportAttributeAccessIssue]
        return observation, info

    def _go_on(self, options: dict[str, Any] | None) -> tuple[np.ndarray, dict]:
        observation, _, terminated, truncated, info = self.env.step(NOOP)
        if not (terminated or truncated):
            return observation, info
        observation, new_info = self.env.reset(options=options)
        self.was_real_done = True  # until the new game's first step, as after any reset
        return observation, {**new_info, "episode": info["episode"]}


class AtariVecEnv(VecEnv):
    """Many games of one kind at once, with ALE's own preprocessing, for wide evaluation. Observes (N, 64, 64, 3) uint8.

    It follows the protocol of `make_atari`, and Stable-Baselines3's interface: an episode that ends is reset in the
    same step, with `info["terminal_observation"]`, `info["TimeLimit.truncated"]`, and `info["episode"]` for whole
    games. Two small differences remain: a game is cut up to 3 raw frames late, and the last observation of a finished
    game is the one that ALE last took, not of its very last frames.

    Raises:
        UsageError: there is no such game.
    """

    def __init__(self, env_id: str, num_envs: int, *, evaluation: bool = False, seed: int | None = None) -> None:
        spec = _find_game(env_id)
        protocol = EVALUATION if evaluation else TRAINING
        self._games = [_Game(spec, protocol) for _ in range(num_envs)]
        self._observations = np.zeros((num_envs, *IMAGE_SHAPE), np.uint8)
        super().__init__(num_envs, self._games[0].observation_space, self._games[0].action_space)
        if seed is not None:
            self.seed(seed)

    def reset(self) -> np.ndarray:
        for row, game in enumerate(self._games):
            self._observations[row], self.reset_infos[row] = game.reset(self._seeds[row])
        self._reset_seeds()  # seeds serve one reset
        self._reset_options()
        return self._observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        actions = np.asarray(actions, dtype=np.int64)
        if not all(map(self.action_space.contains, actions)):  # ALE would wait for a lost worker for ever
            raise UsageError(f"actions: {actions.tolist()} are not all in {self.action_space}")
        for game, action in zip(self._games, actions, strict=True):
            game.send(action)

    def step_wait(self) -> VecEnvStepReturn:
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for row, game in enumerate(self._games):
            observation, rewards[row], terminated, truncated, info = game.receive()
            dones[row] = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            infos.append(info)
            if dones[row]:
                info["terminal_observation"] = observation
                observation, self.reset_infos[row] = game.reset()
            self._observations[row] = observation
        return self._observations.copy(), rewards, dones, infos

    def close(self) -> None:
        """Ends the games; each stops its thread when it is let go."""
        self._games = []

    def get_images(self) -> list[np.ndarray | None]:
        return self.env_method("render")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self._games[row], attr_name) for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for row in self._get_indices(indices):
            setattr(self._games[row], attr_name, value)

    def env_method(self, method_name: str, *method_args, indices: VecEnvIndices = None, **method_kwargs) -> list[Any]:
        return [method(*method_args, **method_kwargs) for method in self.get_attr(method_name, indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """True for `Monitor`, for whole games are reported as `Monitor` reports them."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]


class _Game:
    """One row of `AtariVecEnv`: a game in ALE's vector environment, with a thread of its own.

    A row of one ALE environment each, because the no-op step after a lost life moves one game and not the others.
    ALE 0.12 has no disabled autoreset. Its next-step mode comes to the same here, for every game that ended is reset
    before the next step, and its own limit on frames, which leaves no-ops out, is out of reach.
    """

    render_mode = "rgb_array"
    _NO_LIMIT = 10**9
    _SEEDS = 2**31  # ALE's seeds are non-negative 32-bit integers; -1 means none

    def __init__(self, spec: EnvSpec, protocol: Protocol) -> None:
        self.spec = spec
        self._protocol = protocol
        self._ale = AtariVectorEnv(
            spec.kwargs["game"],
            num_envs=1,
            num_threads=1,
            max_num_frames_per_episode=self._NO_LIMIT,
            repeat_action_probability=0.0,
            full_action_space=False,
            img_height=FRAME_SIZE,
            img_width=FRAME_SIZE,
            grayscale=False,
            stack_num=1,
            frameskip=ACTION_REPEAT,
            maxpool=True,
            noop_max=protocol.noop_max + 1,  # ALE draws from 0 to noop_max - 1
            episodic_life=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.observation_space = image_space()
        self.action_space = self._ale.single_action_space
        self._started = time.time()
        self._observation = np.zeros(IMAGE_SHAPE, np.uint8)
        self._rewards: list[float] = []
        self._lives = 0
        self._is_over = True  # whether `reset` starts a new game; true until the first step after it

    def get_action_meanings(self) -> list[str]:
        return [action.name for action in self._ale.ale.get_action_set()]

    def render(self) -> np.ndarray:
        """The last observation, (64, 64, 3) uint8: ALE's vector environment keeps no larger one."""
        return self._observation

    def send(self, action: int) -> None:
        """Starts a step. `receive` waits for it."""
        self._ale.send(np.array([action]))

    def receive(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """(observation, reward, terminated, truncated, info) of the step that was sent. A lost life terminates."""
        observations, rewards, terminations, _, infos = self._ale.recv()
        info = self._keep(observations, infos)
        self._rewards.append(float(rewards[0]))
        terminated = bool(terminations[0])
        truncated = info["episode_frame_number"] >= self._protocol.max_frames
        self._is_over = terminated or truncated
        if self._is_over:
            seconds = round(time.time() - self._started, 6)
            info["episode"] = {"r": sum(self._rewards), "l": len(self._rewards), "t": seconds}
        # In some games no life is left for a few frames before the game is over: that is no lost life.
        lost_life = self._protocol.life_loss_ends and 0 < info["lives"] < self._lives
        self._lives = info["lives"]
        return self._observation, self._rewards[-1], terminated or lost_life, truncated, info

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new game, or goes on after a lost life, as `EpisodicLife` does."""
        if self._is_over or seed is not None or not self._protocol.life_loss_ends:
            return self._new_game(seed)
        self.send(NOOP)
        observation, _, _, _, info = self.receive()
        if not self._is_over:
            return observation, info
        observation, new_info = self._new_game()
        return observation, {**new_info, "episode": info["episode"]}

    def _new_game(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        observations, infos = self._ale.reset(seed=None if seed is None else seed % self._SEEDS)
        while infos["episode_frame_number"][0] < 1:  # without a no-op: draw again, so that 1 to noop_max are uniform
            observations, infos = self._ale.reset()
        info = self._keep(observations, infos)
        self._rewards, self._lives, self._is_over = [], info["lives"], True
        return self._observation, info

    def _keep(self, observations: np.ndarray, infos: dict[str, np.ndarray]) -> dict[str, Any]:
        """Keeps the observation of a batch of one, stack of one, and returns the info as Python numbers."""
        self._observation = observations[0, 0]
        return {name: int(infos[name][0]) for name in ("lives", "episode_frame_number", "frame_number")}

"""Environments side by side, each of which plays one whole episode after another."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from iris_gym.envs import make_vec_env
from iris_gym.errors import UsageError

OpenEnv = Callable[[], VecEnv]
"""Makes a `VecEnv` of one environment."""

Deal = Callable[[Sequence[int]], Mapping[int, int]]
"""Rows that are free → the seed of the next episode by row; a row that is missing has nothing left to play."""


@dataclass(frozen=True, slots=True)
class EpisodeScore:
    """What one whole episode came to."""

    episode_return: float  # undiscounted sum of the rewards as the environment gave them
    length: int  # agent steps
    seed: int  # with which the environment was reset
    truncated: bool  # whether it was cut off rather than terminated


class Player(Protocol):
    """Acts for N rows at once, each in the middle of an episode of its own."""

    refills: bool
    """Whether a row may begin its next episode before all others have ended theirs."""

    def prepare(self, rows: int, num_actions: int) -> None:
        """Called once, before anything else."""

    def begin(self, seeds: Mapping[int, int]) -> None:
        """These rows begin episodes with these seeds."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Observations (N, …) uint8 to actions (N,) of integers. Rows that play nothing show their last observation."""
        ...


def games(env_id: str, *, atari_100k: bool = True, preprocessing: str = "iris") -> OpenEnv:
    """Evaluation environments of an id, one at a time; see `make_vec_env`. Can be sent to another process."""
    return partial(make_vec_env, env_id, 1, evaluation=True, atari_100k=atari_100k, preprocessing=preprocessing)


class SeedQueue:
    """The seeds `first`, `first + 1`, …, of which seed s is played in row s modulo `rows`.

    A seed's row is fixed because the arithmetic of a row may round differently in another place of the batch.
    """

    def __init__(self, first: int, episodes: int, rows: int) -> None:
        self._waiting = [deque[int]() for _ in range(rows)]
        for seed in range(first, first + episodes):
            self._waiting[seed % rows].append(seed)

    def deal(self, free: Sequence[int]) -> dict[int, int]:
        """The next seed for each of these rows, without those that have none left."""
        return {row: self._waiting[row].popleft() for row in free if self._waiting[row]}


class Rows:
    """N environments and who plays them.

    Every call of the player sees N rows, whether they play or not, since a batch of another size may round
    differently. Environments are made where they are first needed; those that play nothing are not stepped.
    """

    def __init__(self, player: Player, open_env: OpenEnv, rows: int, *, max_steps: int) -> None:
        self._open_env = open_env
        self._max_steps = max_steps
        first = open_env()
        self._first: VecEnv | None = first
        self._envs: dict[int, VecEnv] = {}
        space = first.observation_space
        assert isinstance(space, gym.spaces.Box) and isinstance(first.action_space, gym.spaces.Discrete)
        self.num_actions = int(first.action_space.n)
        self.observations = np.zeros((rows, *space.shape), space.dtype)
        self.seeds: dict[int, int] = {}  # by row, of the episodes that are being played
        self.rewards, self.returns = np.zeros(rows), np.zeros(rows)
        self.lengths = np.zeros(rows, np.int64)
        self._exhausted: set[int] = set()
        self.player = player
        player.prepare(rows, self.num_actions)

    def play(self, deal: Deal, on_episode: Callable[[EpisodeScore], object]) -> None:
        """Play all that `deal` gives."""
        while self.fill(deal):
            for score in self.step():
                on_episode(score)

    def fill(self, deal: Deal) -> bool:
        """Let rows that are free begin an episode; returns whether any row plays."""
        free = [row for row in range(len(self.observations)) if row not in self.seeds and row not in self._exhausted]
        if free and (self.player.refills or not self.seeds):
            dealt = deal(free)
            self._exhausted.update(row for row in free if row not in dealt)
            for row, seed in dealt.items():
                self._begin(row, seed)
            self.player.begin(dealt)
        return bool(self.seeds)

    def step(self) -> list[EpisodeScore]:
        """One step in every row that plays; returns the episodes that ended."""
        actions = self._checked(np.asarray(self.player.act(self.observations.copy())))
        playing = list(self.seeds)
        for row in playing:
            self._envs[row].step_async(actions[row : row + 1])
        scores = [self._receive(row) for row in playing]
        return [score for score in scores if score is not None]

    def close(self) -> None:
        for env in (*self._envs.values(), *([self._first] if self._first else [])):
            env.close()

    def _begin(self, row: int, seed: int) -> None:
        if row not in self._envs:
            self._envs[row], self._first = self._first or self._open_env(), None
        env = self._envs[row]
        env.seed(seed)
        self.observations[row] = _images(env.reset())[0]
        self.seeds[row], self.returns[row], self.lengths[row] = seed, 0, 0

    def _receive(self, row: int) -> EpisodeScore | None:
        """What the step of one row brought; its score if that was its episode's last."""
        observations, rewards, dones, infos = self._envs[row].step_wait()
        done, info = bool(dones[0]), infos[0]
        self.observations[row] = info["terminal_observation"] if done else _images(observations)[0]
        self.rewards[row] = rewards[0]
        self.returns[row] += rewards[0]
        self.lengths[row] += 1
        cut = not done and self.lengths[row] >= self._max_steps
        if not done and not cut:
            return None
        truncated = bool(cut or info.get("TimeLimit.truncated", False))
        return EpisodeScore(float(self.returns[row]), int(self.lengths[row]), self.seeds.pop(row), truncated)

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        rows = len(self.observations)
        if actions.shape != (rows,) or not np.issubdtype(actions.dtype, np.integer):
            raise UsageError(
                f"actions: {rows} observations were answered with shape {actions.shape} of {actions.dtype}; "
                f"give {rows} integers"
            )
        wrong = [int(actions[row]) for row in self.seeds if not 0 <= actions[row] < self.num_actions]
        if wrong:
            raise UsageError(f"actions: {wrong[0]} is none of the {self.num_actions} actions; give 0 or more, and less")
        return actions


def _images(observations: VecEnvObs) -> np.ndarray:
    assert isinstance(observations, np.ndarray), "images, and no dictionaries of them"
    return observations

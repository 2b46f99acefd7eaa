"""Play in the real environment and append what happens to the replay."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from iris_gym.data.replay import Replay
from iris_gym.envs.preprocessing import to_frames
from iris_gym.imagination.policy import Policy


@dataclass(frozen=True, slots=True)
class Step:
    """One step of all N rows of a vector environment, as Stable-Baselines3's callbacks see it."""

    actions: np.ndarray  # (N,) int64
    observations: np.ndarray  # (N, …), after the step; of a new episode where one ended
    rewards: np.ndarray  # (N,) float32
    dones: np.ndarray  # (N,) bool
    infos: list[dict[str, Any]]


class Collector:
    """Acts with a policy in a vector environment of N rows, each with an open episode and an LSTM state of its own."""

    def __init__(
        self,
        env: VecEnv,
        policy: Policy,
        replay: Replay,
        *,
        burn_in: int,
        epsilon: float,
        temperature: float,
        generator: torch.Generator,
    ) -> None:
        self.env = env
        self.policy = policy
        self.replay = replay
        self.burn_in_length = burn_in
        self.epsilon = epsilon
        self.temperature = temperature
        self.generator = generator
        self._frames: np.ndarray | None = None
        self._state = policy.initial_state(env.num_envs)

    @property
    def num_envs(self) -> int:
        return self.env.num_envs

    def reset(self, observations: np.ndarray) -> None:
        """Begin new episodes at `observations`, with which the environment answered a reset.

        Episodes that the reset cut off are closed as truncated: they went on, somewhere we did not see.
        """
        self.replay.truncate_open()
        self._frames = to_frames(observations).copy()

    def begin(self) -> None:
        """Burn the LSTM in on the tail of each open episode, since the networks have changed meanwhile."""
        self.policy.refresh()
        count, length = self.env.num_envs, self.burn_in_length
        self._state = self.policy.initial_state(count)
        tails = [self.replay.open_episode_frames(row, length) for row in range(count)] if length else []
        longest = max((len(tail) for tail in tails), default=0)
        if not longest:
            return
        frames = np.zeros((count, longest, *tails[0].shape[1:]), dtype=np.uint8)
        mask = np.zeros((count, longest), dtype=bool)
        for row, tail in enumerate(tails):
            if len(tail):
                frames[row, -len(tail) :] = tail
                mask[row, -len(tail) :] = True
        self._state = self.policy.burn_in(self._tensor(frames), self._tensor(mask))

    def step(self) -> Step:
        """Act once in every row and append the transitions."""
        assert self._frames is not None, "the environment has to be reset before the first step"
        actions, self._state = self.policy.act(
            self._tensor(self._frames),
            self._state,
            temperature=self.temperature,
            epsilon=self.epsilon,
            generator=self.generator,
        )
        chosen = actions.cpu().numpy()
        observations, rewards, dones, infos = self.env.step(chosen)
        for row in range(self.env.num_envs):
            truncated = bool(dones[row]) and bool(infos[row].get("TimeLimit.truncated", False))
            self.replay.append(
                self._frames[row],
                int(chosen[row]),
                float(rewards[row]),
                terminated=bool(dones[row]) and not truncated,
                truncated=truncated,
                environment=row,
            )
        assert isinstance(observations, np.ndarray)
        self._frames = to_frames(observations).copy()  # an environment may reuse its buffer before they are appended
        self._forget(dones)
        return Step(chosen, observations, rewards, dones, infos)

    def _forget(self, dones: np.ndarray) -> None:
        """Clear the memory of rows whose episode ended."""
        keep = self._tensor(~dones[:, None])
        self._state = self._state[0] * keep, self._state[1] * keep

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._state[0].device)

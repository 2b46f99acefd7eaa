"""Play in the real environment and append what happens to the replay."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from iris_gym.data.replay import Replay
from iris_gym.envs.preprocessing import to_frames
from iris_gym.envs.state import get_state, has_state, set_state
from iris_gym.errors import RunError, UsageError, one_line
from iris_gym.functional import summed_rewards
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
    """Acts with a policy in a vector environment of N rows, each with an open episode and an LSTM state of its own.

    `resets` counts, for each reset of the environment, the vector steps before it. The first one was seeded with the
    run's seed; with the actions in the replay they tell all that the environment was ever asked. None: they do not,
    since the environment was played in before, or exchanged.

    `return_steps` are those over which the `measures` add up rewards.
    """

    def __init__(
        self,
        env: VecEnv,
        policy: Policy,
        replay: Replay,
        *,
        burn_in: int,
        epsilon: float,
        temperature: float,
        return_steps: int,
        generator: torch.Generator,
    ) -> None:
        self.env = env
        self.policy = policy
        self.replay = replay
        self.burn_in_length = burn_in
        self.epsilon = epsilon
        self.temperature = temperature
        self.return_steps = return_steps
        self.generator = generator
        self._frames: np.ndarray | None = None
        self._state = policy.initial_state(env.num_envs)
        self.resets: list[int] | None = [] if not len(replay) else None

    @property
    def lost(self) -> bool:
        """Whether nobody knows where the environment stands: it was not reset yet, or a step was cut short."""
        return self._frames is None

    @property
    def num_envs(self) -> int:
        return self.env.num_envs

    def reset(self, observations: np.ndarray) -> None:
        """Begin new episodes at `observations`, with which the environment answered a reset.

        Episodes that the reset cut off are closed as truncated: they went on, somewhere we did not see.
        """
        self.replay.truncate_open()
        self._frames = to_frames(observations).copy()
        self._state = self.policy.initial_state(self.env.num_envs)
        if self.resets is not None:
            self.resets.append(len(self.replay) // self.num_envs)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What `load_state_dict` needs: values for JSON, and the LSTM's state, two tensors (N, lstm_dim)."""
        return {"resets": self.resets, "games": get_state(self.env)}, {"hidden": self._state[0], "cell": self._state[1]}

    def load_state_dict(
        self, state: dict[str, Any], tensors: dict[str, torch.Tensor], observations: np.ndarray
    ) -> bool:
        """Go on where `state_dict` was taken, in a new environment, seeded as the first one, that stood at
        `observations` (N, …); False where it cannot be brought there. Then it has to be reset."""
        self.resets = state["resets"]
        if observations.shape != (self.num_envs, *(self.env.observation_space.shape or ())):
            self.resets = None
        elif state["games"] is not None and has_state(self.env):
            set_state(self.env, state["games"])
        elif self.resets and not self._retrace(observations):
            self.resets = None
        if not self.resets:
            return False
        self._frames = to_frames(observations).copy()
        self._state = tensors["hidden"].to(self._state[0]), tensors["cell"].to(self._state[1])
        self.policy.refresh()  # the networks were loaded, and in the middle of a collection nobody else asks for it
        return True

    def _retrace(self, observations: np.ndarray) -> bool:
        """Ask the environment once more all that it was asked; whether it answers as before and ends up where it was.

        This takes the time that the environment itself took in the run, and finds one that a seed does not govern.
        """
        assert self.resets is not None
        seen: Any = None
        steps, remainder = divmod(len(self.replay), self.num_envs)
        for step in range(steps + 1):
            for _ in range(self.resets.count(step)):
                seen = self.env.reset()
            if seen is None or remainder:
                return False
            if step < steps:
                frames, actions, rewards, _ = self.replay.transitions(step * self.num_envs, (step + 1) * self.num_envs)
                same_frames = np.array_equal(to_frames(seen), frames)
                seen, brought, _, _ = self.env.step(actions.copy())
                if not same_frames or not np.array_equal(np.asarray(brought, np.float32), rewards):  # as it was stored
                    return False
        return np.array_equal(seen, observations)

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

    def step(self, *, uniform: bool = False) -> Step:
        """Act once in every row, at random where `uniform`, and append the transitions.

        Where it is cut short, by an interruption or a full disk, the collector is `lost` until it is reset.
        """
        assert self._frames is not None, "the environment has to be reset before the first step"
        actions, self._state = self.policy.act(
            self._tensor(self._frames),
            self._state,
            temperature=self.temperature,
            epsilon=1.0 if uniform else self.epsilon,
            generator=self.generator,
        )
        chosen = actions.cpu().numpy()
        frames, resets = self._frames, self.resets
        self._frames = self.resets = None  # until the step is whole
        observations, rewards, dones, infos = self._step_env(chosen)
        for row in range(self.env.num_envs):
            truncated = bool(dones[row]) and bool(infos[row].get("TimeLimit.truncated", False))
            self.replay.append(
                frames[row],
                int(chosen[row]),
                float(rewards[row]),
                terminated=bool(dones[row]) and not truncated,
                truncated=truncated,
                environment=row,
            )
        self._forget(dones)
        self._frames = to_frames(observations).copy()  # an environment may reuse its buffer before they are appended
        self.resets = resets
        return Step(chosen, observations, rewards, dones, infos)

    def measures(self) -> dict[str, torch.Tensor]:
        """`real_return`: what a dream adds up as `imagined_return`, the signs of the rewards over `return_steps` steps
        up to an end, of the steps that have just become so many in each row.

        Empty at the beginning, and where nobody knows, since every row was cut from outside meanwhile.
        """
        count = self.return_steps * self.num_envs
        if len(self.replay) < count:
            return {}
        latest = (torch.from_numpy(column.copy()) for column in self.replay.latest_outcomes(count))
        rewards, terminated, truncated = (column.unflatten(0, (-1, self.num_envs)).T for column in latest)
        known = ~summed_rewards((truncated & ~terminated)[:, :-1], terminated[:, :-1]).bool()
        sums = summed_rewards(rewards.sign(), terminated)[known]
        return {"real_return": sums.mean()} if len(sums) else {}

    def _step_env(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step the environment; raise `RunError`, and keep nothing, where it fails or answers with what is no step."""
        with environment_faults(f"at step {len(self.replay) // self.num_envs + 1}"):
            observations, rewards, dones, infos = self.env.step(actions)
            space = self.env.observation_space
            assert isinstance(observations, np.ndarray), "images, and no dictionaries of them"
            if observations.shape != (self.num_envs, *(space.shape or ())) or observations.dtype != space.dtype:
                raise ValueError(f"observations of shape {observations.shape} and dtype {observations.dtype}")
            rewards, dones = np.asarray(rewards), np.asarray(dones, dtype=bool)
            for name, column in (("rewards", rewards), ("dones", dones)):
                if column.shape != (self.num_envs,):
                    raise ValueError(f"{name} of shape {column.shape} for {self.num_envs} environments")
            if not np.isfinite(rewards).all():
                raise ValueError(f"rewards {rewards.tolist()}, not all of them finite")
        return observations, rewards, dones, infos

    def _forget(self, dones: np.ndarray) -> None:
        """Clear the memory of rows whose episode ended."""
        keep = self._tensor(~dones[:, None])
        self._state = self._state[0] * keep, self._state[1] * keep

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._state[0].device)


@contextmanager
def environment_faults(where: str) -> Iterator[None]:
    """Make one clear line, a `RunError`, of whatever an environment raises, but for what is one clear line already."""
    try:
        yield
    except (OSError, UsageError):
        raise
    except Exception as error:
        raise RunError(f"the environment failed {where}: {type(error).__name__}: {one_line(error)}") from error

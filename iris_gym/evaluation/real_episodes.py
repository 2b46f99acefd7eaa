"""Episodes of the real environment, with all that was seen, done and earned, to hold a dream against.

A game may fall into several episodes: under the training protocol an Atari game goes on after each lost life. T is
the number of steps of an episode.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from iris_gym.envs.preprocessing import to_frames
from iris_gym.evaluation.evaluate import check_play
from iris_gym.imagination.policy import Policy


@dataclass(frozen=True, slots=True)
class RealEpisode:
    """What a replay would hold of it, on the CPU. The observation after the last action is not part of it."""

    frames: Tensor  # (T, 3, 64, 64) uint8, what was seen before each action
    actions: Tensor  # (T,) int64
    rewards: Tensor  # (T,) float32, as the environment gave them
    terminated: bool  # at the last step; otherwise it was cut there
    game: int  # counted from 0
    game_step: int  # steps of the game before this episode
    seed: int  # of the game

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def ends(self) -> Tensor:
        """(T,) bool."""
        ends = torch.zeros(len(self), dtype=torch.bool)
        ends[-1] = self.terminated
        return ends


@dataclass(slots=True)
class _Tape:
    """The game of one row, as far as it was played."""

    game: int
    seed: int
    episodes: list[RealEpisode] = field(default_factory=list)
    steps: int = 0
    over: bool = False
    _open: list[tuple[np.ndarray, int, float]] = field(default_factory=list)

    def add(self, frame: np.ndarray, action: int, reward: float) -> None:
        self._open.append((frame, action, reward))
        self.steps += 1

    def close(self, *, terminated: bool) -> None:
        """End the running episode."""
        if not self._open:
            return
        frames, actions, rewards = zip(*self._open, strict=True)
        self.episodes.append(
            RealEpisode(
                torch.from_numpy(np.stack(frames)),
                torch.tensor(actions, dtype=torch.int64),
                torch.tensor(rewards, dtype=torch.float32),
                terminated,
                self.game,
                self.steps - len(actions),
                self.seed,
            )
        )
        self._open = []


def play_games(
    policy: Policy,
    env: VecEnv,
    *,
    games: int,
    temperature: float,
    seed: int,
    max_steps: int,
    on_game: Callable[[int], object] | None = None,
) -> list[RealEpisode]:
    """Play `games` games without random actions, each up to its end or for `max_steps` steps.

    The N rows play in rounds, as in `evaluate`: game i has the seed `seed + i`. The policy's memory begins anew with
    each episode, as it does where experience is collected. `on_game` is called with a game's number when it is over.

    Returns:
        The episodes in the order of the games.

    Raises:
        UsageError: temperature or seed cannot be used, or the observations are not images.
    """
    check_play(temperature, seed)
    generator = torch.Generator(policy.initial_state(1)[0].device).manual_seed(seed)
    episodes = []
    for first in range(0, games, env.num_envs):
        tapes = [_Tape(game, seed + game) for game in range(first, min(first + env.num_envs, games))]
        _play_round(policy, env, tapes, temperature, generator, max_steps, on_game)
        episodes += [episode for tape in tapes for episode in tape.episodes]
    return episodes


def _play_round(
    policy: Policy,
    env: VecEnv,
    tapes: list[_Tape],
    temperature: float,
    generator: torch.Generator,
    max_steps: int,
    on_game: Callable[[int], object] | None,
) -> None:
    """One game in each of the first rows; what a row does after its game touches no other row and is not kept."""
    env.seed(tapes[0].seed)  # row i takes the seed + i, at the reset
    state = policy.initial_state(env.num_envs)
    frames = _frames(env.reset())
    while not all(tape.over for tape in tapes):
        actions, state = policy.act(
            torch.from_numpy(frames).to(state[0].device), state, temperature=temperature, generator=generator
        )
        chosen = actions.cpu().numpy()
        observations, rewards, dones, infos = env.step(chosen)
        for row, tape in enumerate(tapes):
            if tape.over:
                continue
            tape.add(frames[row], int(chosen[row]), float(rewards[row]))
            truncated = bool(infos[row].get("TimeLimit.truncated", False))
            if dones[row] or tape.steps >= max_steps:
                tape.close(terminated=bool(dones[row]) and not truncated)
            # A game that ends within the no-op step after a lost life is reported by the reset.
            last = "episode" in infos[row] or "episode" in env.reset_infos[row]
            tape.over = tape.steps >= max_steps or (bool(dones[row]) and last)
            if tape.over and on_game:
                on_game(tape.game)
        frames = _frames(observations)
        keep = torch.from_numpy(~dones[:, None]).to(state[0].device)
        state = state[0] * keep, state[1] * keep


def _frames(observations: object) -> np.ndarray:
    """(N, 3, 64, 64) uint8, a copy: an environment may reuse its buffer."""
    assert isinstance(observations, np.ndarray), "images, and no dictionaries of them"
    return to_frames(observations).copy()

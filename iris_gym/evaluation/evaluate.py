"""Whole episodes in the real environment, as a policy plays them (Micheli et al. 2023, section 3.1 and appendix A)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from iris_gym.envs.preprocessing import to_frames
from iris_gym.errors import UsageError
from iris_gym.imagination.policy import Policy
from iris_gym.types import RecurrentState

Actor = Callable[[VecEnvObs, RecurrentState], tuple[np.ndarray, RecurrentState]]
"""(observations (N, …) uint8, recurrent state) → (actions (N,) int64, next recurrent state)."""


@dataclass(frozen=True, slots=True)
class EpisodeScore:
    """What one whole episode came to."""

    episode_return: float  # undiscounted sum of the rewards as the environment gave them
    length: int  # agent steps
    seed: int  # with which the environment was reset
    truncated: bool  # whether it was cut off rather than terminated


def evaluate(
    policy: Policy,
    env: VecEnv,
    *,
    episodes: int,
    temperature: float,
    seed: int,
    on_episode: Callable[[EpisodeScore], None] | None = None,
    max_steps: int | None = None,
) -> list[EpisodeScore]:
    """Play whole episodes without random actions, and count their raw rewards.

    The N rows play in rounds. In round r row i plays exactly one episode, with the seed `seed + r · N + i`, however
    long it takes: taking episodes as they end would favour the short ones. So the seeds are `seed`, `seed + 1`, …
    for any N, and the same call gives the same scores to the last digit. Sampled actions do depend on N, for the rows
    share one random generator. Torch's and NumPy's global random states are left alone.

    Args:
        env: the evaluation environment. It is reset at the start of every round and left in the middle of the last.
        episodes: how many to play, 1 or more. Rows that the last round does not need are not waited for.
        temperature: divides the policy's logits; 0 takes the likeliest action.
        seed: of the first episode, and of the actions' own random generator; 0 or more.
        on_episode: called with every counted episode as soon as it ends.
        max_steps: after which an episode is cut. None: never, and every episode has to end some time.

    Returns:
        The scores in the order of their seeds.

    Raises:
        UsageError: an argument is out of its range, or the observations are not images.
    """
    _check(episodes, temperature, seed)
    act = _actor(policy, temperature, seed)
    scores = []
    for played in range(0, episodes, env.num_envs):
        count = min(env.num_envs, episodes - played)
        initial_state = policy.initial_state(env.num_envs)
        scores += _play_round(
            env, act, initial_state, count=count, seed=seed + played, on_episode=on_episode, max_steps=max_steps
        )
    return scores


def _check(episodes: int, temperature: float, seed: int) -> None:
    if episodes < 1:
        raise UsageError(f"episodes: {episodes} is too few; give 1 or more")
    check_play(temperature, seed)


def check_play(temperature: float, seed: int) -> None:
    """Raise `UsageError` where nobody can act at this temperature, or no environment takes this seed."""
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"temperature: {temperature} is not usable; give 0 for the likeliest action, or more")
    if seed < 0:
        raise UsageError(f"seed: {seed} is negative; environments take 0 or more")
    if seed >= 2**32:
        raise UsageError(f"seed: {seed} is too great; give one below 2**32")


def _actor(policy: Policy, temperature: float, seed: int) -> Actor:
    """The policy from the environment's observations to its actions, with a random generator of its own."""
    device = policy.initial_state(1)[0].device
    generator = torch.Generator(device).manual_seed(seed)

    def act(observations: VecEnvObs, state: RecurrentState) -> tuple[np.ndarray, RecurrentState]:
        assert isinstance(observations, np.ndarray), "images, and no dictionaries of them"
        frames = torch.from_numpy(to_frames(observations)).to(device)
        actions, state = policy.act(frames, state, temperature=temperature, generator=generator)
        return actions.cpu().numpy(), state

    return act


def _play_round(
    env: VecEnv,
    act: Actor,
    state: RecurrentState,
    *,
    count: int,
    seed: int,
    on_episode: Callable[[EpisodeScore], None] | None,
    max_steps: int | None,
) -> list[EpisodeScore]:
    """One episode, with `seed + i`, in each of the first `count` rows i.

    All rows are stepped to the end of the round. What a row does after its episode, in one that the environment has
    begun by itself, is not counted and touches no other row; its stale LSTM state is therefore of no consequence.
    """
    env.seed(seed)  # row i takes seed + i, at the reset
    observations = env.reset()
    returns = np.zeros(env.num_envs)
    scores: dict[int, EpisodeScore] = {}
    length = 0
    while len(scores) < count:
        actions, state = act(observations, state)
        observations, rewards, dones, infos = env.step(actions)
        returns += rewards
        length += 1
        cut = length == max_steps
        for row in [row for row in range(count) if (dones[row] or cut) and row not in scores]:
            truncated = not dones[row] or bool(infos[row].get("TimeLimit.truncated", False))
            scores[row] = EpisodeScore(float(returns[row]), length, seed + row, truncated)
            if on_episode:
                on_episode(scores[row])
    return [scores[row] for row in range(count)]

"""Whole episodes: which are counted, with which seeds, and that they can be repeated."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from iris_gym.envs import make_vec_env
from iris_gym.errors import UsageError
from iris_gym.evaluation.evaluate import EpisodeScore, evaluate
from iris_gym.imagination.policy import Policy
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.nn.convnet import strided_decoder, strided_encoder
from iris_gym.nn.quantizer import EMAQuantizer


class Walk(gym.Env):
    """An episode of a length that its seed says; the reward is 1 for action 1 and 0.5 besides if the seed is odd.

    Without a seed, as after an episode that ended, it is one step long and its reward is 1000.
    """

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, truncates: bool = False) -> None:
        self.truncates = truncates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = 1 if seed is None else 30 if seed % 3 == 0 else 2
        self.bonus = 1000.0 if seed is None else 0.5 * (seed % 2)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        ended = self.steps == self.length
        return self._observe(), float(action) + self.bonus, ended and not self.truncates, ended and self.truncates, {}

    def _observe(self):
        return np.full((64, 64, 3), self.steps, np.uint8)


class Script(Policy):
    """Takes action 1 at every other frame, by the frame's brightness; counts in its state what it has seen."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []
        self.frames: list[torch.Tensor] = []
        self.options: list[dict] = []

    def initial_state(self, batch):
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def act(self, frames, state, **options):
        self.seen.append(state[0][:, 0].tolist())
        self.frames.append(frames)
        self.options.append(options)
        return frames[:, 0, 0, 0].long() % 2, (state[0] + 1, state[1])


def walks(count: int, **options) -> VecEnv:
    return DummyVecEnv([partial(Walk, **options) for _ in range(count)])


def small_policy(num_actions: int) -> Policy:
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        strided_encoder(8, 4, 8), strided_decoder(8, 4, 8), EMAQuantizer(16, 8), commitment_weight=0.25
    )
    return Policy(tokenizer.eval(), ActorCritic(num_actions, lstm_dim=16).eval())


def play(env: VecEnv, policy: Policy | None = None, **options) -> list[EpisodeScore]:
    return evaluate(policy or Script(), env, **{"episodes": 5, "temperature": 0.0, "seed": 3, **options})


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_long_and_short_episodes_count_alike_for_any_number_of_rows(rows: int):
    """Seeds 3 and 6 play 30 steps, the others 2; the policy earns 1 at every other step, odd seeds 0.5 at each."""
    assert play(walks(rows)) == [
        EpisodeScore(15 + 15, 30, 3, False),
        EpisodeScore(1, 2, 4, False),
        EpisodeScore(1 + 1, 2, 5, False),
        EpisodeScore(15, 30, 6, False),
        EpisodeScore(1 + 1, 2, 7, False),
    ]


def test_rows_that_the_last_round_does_not_need_are_not_waited_for():
    policy = Script()
    play(walks(3), policy, episodes=2, seed=1)  # the third row would play 30 steps
    assert len(policy.seen) == 2


def test_truncated_episodes_are_marked():
    assert [score.truncated for score in play(walks(2, truncates=True))] == [True] * 5
    assert not any(score.truncated for score in play(walks(2)))


def test_the_policy_starts_every_episode_without_memory_and_explores_nothing():
    policy = Script()
    play(walks(1), policy, episodes=2, seed=1, temperature=0.5)
    assert policy.seen == [[0.0], [1.0], [0.0], [1.0]]
    assert policy.frames[1].shape == (1, 3, 64, 64) and policy.frames[1].dtype == torch.uint8
    assert all(options["temperature"] == 0.5 and not options.get("epsilon") for options in policy.options)


def test_every_counted_episode_is_told_as_it_ends():
    told: list[EpisodeScore] = []
    scores = play(walks(3), on_episode=told.append, episodes=4)
    assert [score.seed for score in told] == [4, 5, 3, 6]
    assert sorted(told, key=lambda score: score.seed) == scores


def test_sampled_actions_repeat_and_follow_seed_and_temperature():
    policy = small_policy(2)
    sampled = partial(play, walks(2), policy, temperature=1.0, episodes=2)
    returns = [score.episode_return for score in sampled(seed=3)]
    assert [score.episode_return for score in sampled(seed=3)] == returns
    assert [score.episode_return for score in sampled(seed=9)] != returns  # Walk does not tell 3 from 9
    assert [score.episode_return for score in sampled(seed=3, temperature=0.0)] != returns


def test_the_global_random_states_are_left_alone():
    policy, env = small_policy(2), walks(2)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    play(env, policy, temperature=1.0, episodes=2)
    assert (torch.rand(1).item(), np.random.rand()) == expected


def test_a_used_environment_plays_the_same():
    env = walks(2)
    first = play(env)
    env.reset()
    env.step(np.array([0, 1]))
    assert play(env) == first


@pytest.mark.parametrize(
    "options, message",
    [
        ({"episodes": 0}, "episodes: 0 is too few; give 1 or more"),
        ({"temperature": -0.5}, "temperature: -0.5 is not usable"),
        ({"temperature": float("nan")}, "temperature: nan is not usable"),
        ({"seed": -1}, "seed: -1 is negative"),
    ],
)
def test_arguments_out_of_range(options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        play(walks(1), **options)


class Idle(Script):
    def act(self, frames, state, **options):
        return torch.zeros(len(frames), dtype=torch.int64), state


@pytest.mark.parametrize("preprocessing", ["iris", "ale"])
def test_an_idle_player_loses_every_point_of_pong(preprocessing: str):
    """Greedy, without sticky actions: whoever never moves loses 21 to 0, in as many steps every time."""
    env = make_vec_env("ALE/Pong-v5", 2, evaluation=True, preprocessing=preprocessing)
    scores = play(env, Idle(), episodes=2)
    assert [score.episode_return for score in scores] == [-21.0, -21.0]
    assert all(700 < score.length < 1000 and not score.truncated for score in scores)
    env.close()

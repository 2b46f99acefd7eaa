"""Whole episodes: which are counted, with which seeds, and that they can be repeated."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from iris_gym.errors import UsageError
from iris_gym.evaluation import evaluate as module
from iris_gym.evaluation.evaluate import evaluate, most_workers
from iris_gym.evaluation.players import PolicyPlayer
from iris_gym.evaluation.rows import EpisodeScore, SeedQueue, games
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

    def __init__(self, truncates: bool = False, ends: bool = True) -> None:
        self.truncates, self.ends = truncates, ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length = 1 if seed is None else 30 if seed % 3 == 0 else 2
        self.bonus = 1000.0 if seed is None else 0.5 * (seed % 2)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        ended = self.steps == self.length and self.ends
        return self._observe(), float(action) + self.bonus, ended and not self.truncates, ended and self.truncates, {}

    def _observe(self):
        return np.full((64, 64, 3), self.steps, np.uint8)


class Script:
    """Takes action 1 at every other frame, by the frame's brightness."""

    def __init__(self, refills: bool = True) -> None:
        self.refills = refills
        self.shapes: list[tuple] = []
        self.begun: list[dict[int, int]] = []

    def prepare(self, rows, num_actions):
        self.prepared = rows, num_actions

    def begin(self, seeds):
        self.begun.append(dict(seeds))

    def act(self, observations):
        self.shapes.append(observations.shape)
        return observations[:, 0, 0, 0].astype(int) % 2


def walks(**options) -> partial:
    return partial(DummyVecEnv, [partial(Walk, **options)])


def small_policy(num_actions: int) -> Policy:
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        strided_encoder(8, 4, 8), strided_decoder(8, 4, 8), EMAQuantizer(16, 8), commitment_weight=0.25
    )
    return Policy(tokenizer.eval(), ActorCritic(num_actions, lstm_dim=16).eval())


def play(player=None, open_env=None, **options) -> list[EpisodeScore]:
    return evaluate(player or Script(), open_env or walks(), **{"episodes": 5, "seed": 3, **options})


@pytest.fixture
def rows(request, monkeypatch) -> int:
    monkeypatch.setattr(module, "ROWS", request.param)
    return request.param


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8], indirect=True)
@pytest.mark.parametrize("refills", [True, False])
def test_long_and_short_episodes_count_alike_for_any_number_of_rows(rows: int, refills: bool):
    """Seeds 3 and 6 play 30 steps, the others 2; the policy earns 1 at every other step, odd seeds 0.5 at each."""
    assert play(Script(refills)) == [
        EpisodeScore(15 + 15, 30, 3, False),
        EpisodeScore(1, 2, 4, False),
        EpisodeScore(1 + 1, 2, 5, False),
        EpisodeScore(15, 30, 6, False),
        EpisodeScore(1 + 1, 2, 7, False),
    ]


@pytest.mark.parametrize("rows", [2], indirect=True)
def test_a_row_that_is_free_begins_its_next_episode_at_once(rows: int):
    """Row 1 plays seeds 1 (2 steps) and 3 (30), row 0 seeds 0 (30) and 2 (2)."""
    refilling, waiting = Script(), Script(refills=False)
    assert play(refilling, episodes=4, seed=0) == play(waiting, episodes=4, seed=0)
    assert [seeds for seeds in refilling.begun if seeds] == [{0: 0, 1: 1}, {1: 3}, {0: 2}]
    assert [seeds for seeds in waiting.begun if seeds] == [{0: 0, 1: 1}, {0: 2, 1: 3}]
    assert len(refilling.shapes) == 32 and len(waiting.shapes) == 60


def test_the_player_sees_batches_of_one_size():
    player = Script()
    play(player, episodes=11, seed=0)
    assert set(player.shapes) == {(8, 64, 64, 3)} and player.prepared == (8, 2)
    play(player, episodes=3, seed=0)
    assert player.shapes[-1] == (3, 64, 64, 3)


def test_truncated_episodes_are_marked():
    assert [score.truncated for score in play(open_env=walks(truncates=True))] == [True] * 5
    assert not any(score.truncated for score in play())


def test_an_environment_that_never_ends_is_cut():
    scores = play(open_env=walks(ends=False), max_steps=7, episodes=9)
    assert [(score.length, score.truncated) for score in scores] == [(7, True)] * 9


def test_an_end_at_the_last_step_is_an_end():
    assert [score.truncated for score in play(max_steps=2)] == [True, False, False, True, False]


def test_every_counted_episode_is_told_as_it_ends():
    told: list[EpisodeScore] = []
    scores = play(on_episode=told.append, episodes=4)
    assert [score.seed for score in told[:2]] == [4, 5]
    assert sorted(told, key=lambda score: score.seed) == scores


def test_sampled_actions_repeat_and_follow_seed_and_temperature():
    policy = small_policy(2)

    def sampled(temperature: float = 1.0, **options) -> list[float]:
        scores = play(PolicyPlayer(policy, temperature), **options)
        return [score.episode_return for score in scores]

    returns = sampled(seed=3)
    assert sampled(seed=3) == returns
    assert sampled(seed=9) != returns  # Walk does not tell 3 from 9
    assert sampled(seed=3, temperature=0.0) != returns


@pytest.mark.parametrize("rows", [3], indirect=True)
def test_an_episode_is_the_same_whatever_is_played_beside_it(rows: int):
    """Twelve episodes of seeds 0 to 11, or the last six of them alone: row 0 plays seed 6 after 0 and 3, or at once."""
    player = PolicyPlayer(small_policy(2), 1.0)
    together = play(player, episodes=12, seed=0)
    assert len({score.episode_return for score in together}) > 4
    assert play(player, episodes=6, seed=6) == together[6:]


def test_actions_are_drawn_from_another_stream_than_the_environments():
    """Or a game's beginning would foretell what is drawn for its first actions."""
    player = PolicyPlayer(small_policy(2), 1.0)
    player.prepare(1, 2)
    player.begin({0: 5})
    assert player.streams[0].random() != np.random.default_rng(5).random()


def test_the_global_random_states_are_left_alone():
    player = PolicyPlayer(small_policy(2), 1.0)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    play(player, episodes=2)
    assert (torch.rand(1).item(), np.random.rand()) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"episodes": 0}, "episodes: 0 is too few; give 1 or more"),
        ({"workers": 0}, "workers: 0 is too few; give 1 or more"),
        ({"max_steps": 0}, "max_steps: 0 is too few; give 1 or more"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"seed": 2**32 - 2}, "seed: 4294967298 is too great"),
    ],
)
def test_arguments_out_of_range(options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        play(**options)


@pytest.mark.parametrize(
    "answer, message",
    [
        (np.zeros(4, int), r"5 observations were answered with shape \(4,\)"),
        (np.zeros(5), "float64"),
        (np.full(5, 2), "2 is none of the 2 actions"),
        (np.full(5, -1), "-1 is none of the 2 actions"),
    ],
)
def test_what_is_no_action_is_refused(answer: np.ndarray, message: str):
    player = Script()
    player.act = lambda observations: answer
    with pytest.raises(UsageError, match=message):
        play(player)


def test_seeds_have_fixed_rows():
    queue = SeedQueue(3, 5, 2)
    assert queue.deal([0, 1]) == {0: 4, 1: 3}
    assert queue.deal([1]) == {1: 5}
    assert queue.deal([1, 0]) == {1: 7, 0: 6}
    assert queue.deal([0, 1]) == {}


@pytest.mark.parametrize("episodes, workers", [(1, 1), (8, 1), (9, 2), (100, 13)])
def test_no_more_workers_than_there_is_work_for(episodes: int, workers: int):
    assert most_workers(episodes) == workers


class Idle(Script):
    def act(self, observations):
        return np.zeros(len(observations), np.int64)


@pytest.mark.parametrize("preprocessing", ["iris", "ale"])
def test_an_idle_player_loses_every_point_of_pong(preprocessing: str):
    """Greedy, without sticky actions: whoever never moves loses 21 to 0, in as many steps every time."""
    scores = play(Idle(), games("ALE/Pong-v5", preprocessing=preprocessing), episodes=2)
    assert [score.episode_return for score in scores] == [-21.0, -21.0]
    assert all(700 < score.length < 1000 and not score.truncated for score in scores)

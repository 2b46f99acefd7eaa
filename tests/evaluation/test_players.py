"""Functions of other libraries as players."""

import sys

import numpy as np
import pytest
from stable_baselines3 import PPO

from iris_gym.envs import make_env
from iris_gym.errors import UsageError
from iris_gym.evaluation.evaluate import evaluate
from iris_gym.evaluation.players import FunctionPlayer, RandomPlayer, load_function
from iris_gym.evaluation.rows import games

CORRIDOR = games("MiniGrid-Empty-5x5-v0")

MODULE = """
import random
import numpy as np
import torch

calls = []
number = 3

def plain(observations):
    calls.append(observations)
    return [0] * len(observations)

def remembers(observation, state=None, episode_start=None, deterministic=False):
    calls.append((state, episode_start, deterministic))
    return np.zeros(len(observation), int), (0 if state is None else state) + 1

def anything(observations, **rest):
    calls.append(sorted(rest))
    return np.zeros(len(observations), int)

def chance(observations):
    draws = [random.random(), np.random.rand(), torch.rand(()).item()]
    return [int(10 * sum(draws) * (row + 1)) % 3 for row in range(len(observations))]

def broken(observations):
    raise KeyError("left\\nright")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the working folder, which is not on the path."""
    (tmp_path / "players_module.py").write_text(MODULE)
    (tmp_path / "broken_module.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    load_function("players_module:plain")
    yield sys.modules["players_module"]
    sys.modules.pop("players_module")


def play(name: str, episodes: int = 2, deterministic: bool = False, **options):
    player = FunctionPlayer(f"players_module:{name}", deterministic=deterministic)
    return evaluate(player, CORRIDOR, **{"episodes": episodes, "seed": 0, "max_steps": 30, **options})


def test_chance_draws_each_episodes_actions_from_its_seed():
    draws = {}
    for rows in (2, 5):
        player = RandomPlayer()
        player.prepare(rows, 3)
        player.begin({1: 7, 0: 8})
        draws[rows] = np.stack([player.act(np.zeros((rows, 64, 64, 3), np.uint8)) for _ in range(600)])
    assert (draws[2] == draws[5][:, :2]).all() and (draws[2][:, 0] != draws[2][:, 1]).any()
    assert (np.abs(np.bincount(draws[2][:, 0], minlength=3) / 600 - 1 / 3) < 0.1).all()
    open_env = games("MiniGrid-Empty-5x5-v0")
    first, second = (evaluate(RandomPlayer(), open_env, episodes=count, seed=3, max_steps=50) for count in (2, 3))
    assert first == second[:2]
    assert evaluate(RandomPlayer(2), open_env, episodes=2, seed=3, max_steps=50) != first


def test_a_function_of_observations(module):
    scores = play("plain")
    assert [score.length for score in scores] == [30, 30]
    assert module.calls[0].shape == (2, 64, 64, 3) and module.calls[0].dtype == np.uint8


def test_a_function_with_memory_is_called_as_predict_is(module):
    play("remembers", episodes=9, deterministic=True)
    states, starts, deterministic = zip(*module.calls, strict=True)
    one_round = [None, *range(1, 30)]
    assert list(states) == one_round * 2
    assert [begins.tolist() for begins in starts] == ([[True] * 8] + [[False] * 8] * 29) * 2
    assert set(deterministic) == {True}


def test_a_function_that_takes_anything_gets_everything(module):
    play("anything", max_steps=1)
    assert module.calls == [["deterministic", "episode_start", "state"]]


def test_a_function_that_draws_at_random_gives_the_same_scores_again(module):
    first = play("chance", episodes=9, max_steps=60)
    np.random.seed(77)
    assert play("chance", episodes=9, max_steps=60) == first
    assert len({score.length for score in first}) > 1


def test_a_model_of_stable_baselines3_as_it_is(module):
    env = make_env("MiniGrid-Empty-5x5-v0")
    module.model = PPO("CnnPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    greedy = play("model.predict", deterministic=True)
    assert greedy == play("model.predict", deterministic=True)
    assert play("model.predict", episodes=3) == play("model.predict", episodes=3)


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_colon", "agent: 'no_colon' names no function; write module:function"),
        ("players_module:", "names no function"),
        ("no_such_module:act", "'no_such_module:act' cannot be loaded: ModuleNotFoundError"),
        ("broken_module:act", "'broken_module:act' cannot be loaded: .*no_such_package"),
        ("players_module:absent", "'players_module:absent' cannot be loaded: AttributeError"),
        ("players_module:number", "'players_module:number' is a int; it must be a function"),
        ("players_module:broken", r"'players_module:broken' raised KeyError: 'left\\nright'"),
    ],
)
def test_what_cannot_be_played_with(name: str, message: str, module):
    with pytest.raises(UsageError, match=message):
        evaluate(FunctionPlayer(name), CORRIDOR, episodes=1, seed=0)

"""Episodes in several real processes: the same scores, and no hang when one is killed."""

import multiprocessing
import os
import pickle
import signal
import sys
import time

import pytest
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.errors import UsageError
from iris_gym.evaluation.evaluate import evaluate
from iris_gym.evaluation.players import FunctionPlayer, PolicyPlayer
from iris_gym.evaluation.rows import games
from iris_gym.imagination.policy import Policy

CORRIDOR = games("MiniGrid-Empty-5x5-v0")

AGENT = """
import numpy as np

def act(observations):
    return np.random.randint(0, 3, len(observations))

def explode(observations):
    raise ValueError("no idea")
"""


@pytest.fixture(scope="module")
def player() -> PolicyPlayer:
    torch.manual_seed(0)
    models = build_models(IRISConfig.tiny(), 7, "cpu")
    return PolicyPlayer(Policy(models.tokenizer, models.actor_critic), 1.0)


@pytest.fixture
def agent_module(tmp_path, monkeypatch) -> str:
    """A module that only this process's path leads to, as one in a user's working folder."""
    (tmp_path / "workers_agent.py").write_text(AGENT)
    monkeypatch.syspath_prepend(tmp_path)
    yield "workers_agent"
    sys.modules.pop("workers_agent", None)


def test_a_player_is_sent_whole(player):
    sent = pickle.loads(pickle.dumps(player))
    assert evaluate(sent, CORRIDOR, episodes=1, seed=5, max_steps=20) == evaluate(
        player, CORRIDOR, episodes=1, seed=5, max_steps=20
    )


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(player):
    told = []
    alone = evaluate(player, CORRIDOR, episodes=20, seed=7)
    together = evaluate(player, CORRIDOR, episodes=20, seed=7, workers=2, on_episode=told.append)
    assert together == alone
    assert len({score.length for score in alone}) > 2
    assert sorted(told, key=lambda score: score.seed) == alone
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_evaluation(player):
    """SIGKILL, as the kernel sends it where memory runs out; the games would go on for minutes."""
    begun = time.monotonic()

    def kill(_score) -> None:
        victim = multiprocessing.active_children()[0]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)

    with pytest.raises(UsageError, match=r"workers: process \d+ was killed by SIGKILL before its games were over"):
        evaluate(player, CORRIDOR, episodes=2000, seed=0, workers=2, on_episode=kill)
    assert time.monotonic() - begun < 120
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_function_gives_the_same_scores_in_any_number_of_processes(agent_module):
    """It draws from NumPy's global generator, so the episodes of a round belong together."""
    function = FunctionPlayer(f"{agent_module}:act")
    alone = evaluate(function, CORRIDOR, episodes=40, seed=3)
    assert evaluate(function, CORRIDOR, episodes=40, seed=3, workers=3) == alone
    assert len({score.length for score in alone}) > 2


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_told_in_one_line(agent_module):
    function = FunctionPlayer(f"{agent_module}:explode")
    with pytest.raises(UsageError, match=r"agent: 'workers_agent:explode' raised ValueError: no idea$"):
        evaluate(function, CORRIDOR, episodes=20, seed=0, workers=2)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_error_of_our_own_keeps_its_traceback(player):
    broken = pickle.loads(pickle.dumps(player))
    broken.policy.actor_critic.actor = torch.nn.Linear(7, 7)
    with pytest.raises(RuntimeError, match=r"(?s)a worker process failed:.*in act"):
        evaluate(broken, CORRIDOR, episodes=20, seed=0, workers=2)

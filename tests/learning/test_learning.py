"""That the agent learns at all, and that this test would notice where it does not.

python -m pytest -m slow tests/learning       what CI runs: minutes
python -m pytest -m mutation tests/learning   broken agents, one after another, all of which have to fail it
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from iris_gym import IRISAgent, IRISConfig
from iris_gym.models import actor_critic
from iris_gym.models.world_model import WorldModel

ENOUGH = 0.8
"""Of the return: uniformly random actions get 0.2 on average, an agent that looks no further than its next step gets
0.6, and the most that can be had is 0.955, which seeds 0, 1 and 2 all come to."""


def learned_return() -> float:
    """The mean return of 50 episodes after 1,000 random steps in a room of 3×3 cells with a goal.

    The preset `small`, with four tokens a frame instead of 16 and fewer updates: there is little to see and to learn,
    and so it takes minutes. Nothing is imitated, for an agent has not played yet.
    """
    config = IRISConfig.small(
        env="MiniGrid-Empty-5x5-v0",
        atari_100k=False,
        encoder_downsamplings=5,
        tokens_per_frame=4,
        autoencoder_first_updates=400,
        transformer_first_updates=500,
        actor_critic_first_updates=200,
        eval_interval=0,
    )
    agent = IRISAgent(config.env, config, seed=0)
    agent.learn(1_000)
    return float(np.mean([episode.episode_return for episode in agent.evaluate(50)]))


@pytest.mark.slow
def test_an_agent_learns_to_reach_the_goal():
    assert learned_return() >= ENOUGH


def returns_of_the_wrong_sign(patch: pytest.MonkeyPatch) -> None:
    right = actor_critic.lambda_returns
    patch.setattr(actor_critic, "lambda_returns", lambda *tensors, **settings: -right(*tensors, **settings))


def reward_classes_in_reverse(patch: pytest.MonkeyPatch) -> None:
    right = WorldModel.loss

    def loss(model: WorldModel, tokens: Any, actions: Any, rewards: Any, *others: Any, **settings: Any) -> Any:
        return right(model, tokens, actions, -rewards, *others, **settings)

    patch.setattr(WorldModel, "loss", loss)


def an_end_mask_turned_over(patch: pytest.MonkeyPatch) -> None:
    right = actor_critic.lambda_returns

    def lambda_returns(rewards: Any, values: Any, ends: Any, **settings: Any) -> Any:
        return right(rewards, values, ~ends, **settings)

    patch.setattr(actor_critic, "lambda_returns", lambda_returns)


@pytest.mark.mutation
@pytest.mark.parametrize("broken", [returns_of_the_wrong_sign, reward_classes_in_reverse, an_end_mask_turned_over])
def test_a_broken_agent_fails(broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch):
    broken(monkeypatch)
    assert learned_return() < ENOUGH

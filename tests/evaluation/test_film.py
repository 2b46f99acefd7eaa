"""The film of an evaluation shows the episode that was counted."""

import numpy as np
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.evaluation.evaluate import evaluate
from iris_gym.evaluation.film import film
from iris_gym.evaluation.players import PolicyPlayer
from iris_gym.evaluation.rows import games
from iris_gym.evaluation.video import BAND, RED
from iris_gym.imagination.policy import Policy


def test_the_film_has_an_image_for_each_step_of_the_first_episode():
    torch.manual_seed(0)
    models = build_models(IRISConfig.tiny(), 7, "cpu")
    player = PolicyPlayer(Policy(models.tokenizer, models.actor_critic), 1.0)
    corridor = games("MiniGrid-Empty-5x5-v0")
    first, *_ = evaluate(player, corridor, episodes=2, seed=11, max_steps=40)
    images = list(film(player, corridor, "corridor", episodes=2, seed=11, max_steps=40))
    assert len(images) == first.length + 1
    assert images[0].shape == (6 * (64 + 2 * BAND), 6 * 64, 3) and images[0].dtype == np.uint8
    assert tuple(images[-1][-1, -1]) == RED and tuple(images[-2][-1, -1]) != RED

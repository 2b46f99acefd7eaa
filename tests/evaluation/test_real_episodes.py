import numpy as np
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.envs import make_vec_env
from iris_gym.evaluation.real_episodes import play_games
from iris_gym.imagination.policy import Policy


def policy(num_actions: int) -> Policy:
    torch.manual_seed(0)
    models = build_models(IRISConfig.tiny(), num_actions, "cpu")
    return Policy(models.tokenizer, models.actor_critic)


def play(env_id: str, rows: int, **options):
    env = make_vec_env(env_id, rows)
    try:
        return play_games(policy(int(env.action_space.n)), env, temperature=1.0, **options)
    finally:
        env.close()


def test_a_game_of_breakout_falls_into_lives():
    episodes = play("ALE/Breakout-v5", 1, games=1, seed=3, max_steps=2000)
    assert len(episodes) == 5 and all(episode.terminated for episode in episodes)
    assert [episode.seed for episode in episodes] == [3] * 5 and {episode.game for episode in episodes} == {0}
    assert [episode.game_step for episode in episodes] == np.cumsum([0, *map(len, episodes[:-1])]).tolist()
    for episode in episodes:
        assert episode.frames.shape == (len(episode), 3, 64, 64) and episode.frames.dtype == torch.uint8
        assert episode.ends.tolist() == [False] * (len(episode) - 1) + [True]


def test_seeds_are_counted_through_the_rounds_and_repeat():
    games = [play("MinAtar/Breakout-v1", 2, games=3, seed=10, max_steps=60) for _ in range(2)]
    assert [(episode.game, episode.seed) for episode in games[0]] == [(0, 10), (1, 11), (2, 12)]
    for first, second in zip(*games, strict=True):
        assert torch.equal(first.frames, second.frames) and torch.equal(first.actions, second.actions)


def test_a_cut_game_has_no_end():
    seen = []
    episodes = play("ALE/Pong-v5", 2, games=2, seed=0, max_steps=7, on_game=seen.append)
    assert [len(episode) for episode in episodes] == [7, 7] and seen == [0, 1]
    assert not any(episode.terminated for episode in episodes)
    assert not torch.equal(episodes[0].frames, episodes[1].frames)

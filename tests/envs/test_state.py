import base64
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from iris_gym.envs import make_env, make_vec_env
from iris_gym.envs.state import get_state, has_state, set_state
from iris_gym.errors import UsageError


def play(env, steps: int, seed: int) -> list[tuple]:
    """What an environment answers to random actions, but for times."""
    draws = np.random.default_rng(seed)
    answers = []
    for _ in range(steps):
        actions = draws.integers(env.action_space.n, size=env.num_envs)
        observations, rewards, dones, infos = env.step(actions)
        games = [(info.get("episode", {}).get("r"), info.get("episode", {}).get("l")) for info in infos]
        answers.append((observations.tobytes(), rewards.tolist(), dones.tolist(), games))
    return answers


@pytest.mark.parametrize("env_id", ["ALE/Breakout-v5", "ALE/Qbert-v5"])
def test_a_game_goes_on_where_it_stood_over_lives_and_games(env_id):
    original, copy = (make_vec_env(env_id, 1, seed=seed) for seed in (1, 2))
    original.reset()
    play(original, 170, seed=0)
    set_state(copy, json.loads(json.dumps(get_state(original))))
    answers = play(original, 330, seed=1)
    assert play(copy, 330, seed=1) == answers
    assert sum(any(dones) for _, _, dones, _ in answers) >= 2
    assert any(length for *_, games in answers for _, length in games), "a whole game has to end among them"


def test_a_time_limit_goes_on_counting():
    def make():
        return DummyVecEnv([lambda: Monitor(TimeLimit(make_env("ALE/Pong-v5", evaluation=True), 30))])

    original, copy = make(), make()
    original.reset()
    play(original, 20, seed=0)
    set_state(copy, get_state(original))
    assert [dones for _, _, dones, _ in play(copy, 11, seed=1)].index([True]) == 9


def test_other_environments_and_wrappers_have_no_state_to_tell():
    assert get_state(make_vec_env("MiniGrid-Empty-5x5-v0", 1)) is None
    assert not has_state(make_vec_env("ALE/Pong-v5", 1, preprocessing="ale"))
    assert not has_state(make_vec_env("ALE/Pong-v5", 1, atari_100k=False)), "actions are sticky there"
    wrapped = gym.wrappers.TransformReward(make_env("ALE/Pong-v5"), lambda reward: reward)
    assert get_state(DummyVecEnv([lambda: wrapped])) is None


def shorter(state: dict) -> None:
    state["emulator"] = state["emulator"][:1000]


def lying(state: dict) -> None:
    content = bytearray(base64.b85decode(state["emulator"]))
    content[24:28] = (2**31 - 1).to_bytes(4, "little")
    state["emulator"] = base64.b85encode(bytes(content)).decode()


@pytest.mark.parametrize(
    "spoil",
    [
        shorter,
        lying,
        lambda state: state.update(emulator=base64.b85encode(bytes(14_420)).decode()),
        lambda state: state.update(emulator="no base 85: \\"),
        lambda state: state.update(random={}),
        lambda state: state["layers"].pop(),
        lambda state: state["layers"][0].clear(),
    ],
)
def test_a_state_of_something_else_is_refused_at_once(spoil):
    """ALE itself would read on for ever where the lengths in it lie."""
    env = make_vec_env("ALE/Pong-v5", 1, seed=0)
    env.reset()
    states = get_state(env)
    assert states is not None
    spoil(states[0])
    with pytest.raises(UsageError, match="are none of this environment"):
        set_state(env, states)


def test_the_state_of_another_game_is_refused():
    pong, breakout = (make_vec_env(f"ALE/{game}-v5", 1, seed=0) for game in ("Pong", "Breakout"))
    for env in (pong, breakout):
        env.reset()
    states = get_state(pong)
    assert states is not None
    with pytest.raises(UsageError, match="are none of this environment"):
        set_state(breakout, states)

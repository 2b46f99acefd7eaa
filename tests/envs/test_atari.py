"""Both Atari paths against the Atari 100k protocol, on real games."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from iris_gym.envs import AtariVecEnv, atari, is_atari, make_atari, make_vec_env
from iris_gym.errors import UsageError

PONG, BREAKOUT = "ALE/Pong-v5", "ALE/Breakout-v5"
FIRE = 1
PATHS = ("iris", "ale")


def limit(monkeypatch, max_frames: int, noop_max: int = 1) -> None:
    """Shortens training games."""
    protocol = dataclasses.replace(atari.TRAINING, max_frames=max_frames, noop_max=noop_max)
    monkeypatch.setattr(atari, "TRAINING", protocol)


def play_breakout(envs: VecEnv, until: str, steps: int = 2000):
    """Fires for ever on every row. Returns the first row with `until` in its info: (row, reward, done, info)."""
    for _ in range(steps):
        _, rewards, dones, infos = envs.step(np.full(envs.num_envs, FIRE))
        for row, info in enumerate(infos):
            if until in info:
                return row, rewards[row], dones[row], info
    raise AssertionError(f"no {until} in {steps} steps")


@pytest.fixture
def make_vec():
    opened = []

    def make(env_id: str, preprocessing: str, num_envs: int = 1, **options) -> VecEnv:
        opened.append(make_vec_env(env_id, num_envs, preprocessing=preprocessing, **options))
        return opened[-1]

    yield make
    for envs in opened:
        envs.close()


def test_the_step_of_four_raw_frames():
    """Golden: raw frames of the same game, resized, then the maximum; rewards summed."""
    env = make_atari(PONG, evaluation=True)
    raw = gym.make(PONG, frameskip=1, repeat_action_probability=0.0)
    raw.reset(seed=0)
    frame = raw.step(0)[0]
    observation, info = env.reset(seed=0)
    assert info["episode_frame_number"] == 1
    np.testing.assert_array_equal(observation, small(frame))
    actions = np.random.default_rng(0).integers(6, size=120)
    total = 0.0
    for action in actions:
        results = [raw.step(action) for _ in range(4)]
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(observation, np.maximum(small(results[2][0]), small(results[3][0])))
        assert reward == sum(float(result[1]) for result in results)
        assert not terminated and not truncated
        total += float(reward)
    assert info["episode_frame_number"] == 1 + 4 * len(actions)
    assert total < 0  # there was something to sum
    raw.close()
    env.close()


def small(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BILINEAR))


class Script(gym.Env):
    """Raw frames of growing brightness, one reward each; ends after `length` steps."""

    action_space = gym.spaces.Discrete(2)
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self, length: int) -> None:
        self.length, self.steps = length, 0

    def step(self, action):
        self.steps += 1
        brightness = 100 - self.steps  # falls, so that the maximum is not simply the last frame
        return np.full((64, 64, 3), brightness, np.uint8), 1.0, self.steps == self.length, False, {}


@pytest.mark.parametrize("length, brightness", [(1, 99), (2, 99), (3, 98), (4, 97), (9, 97)])
def test_a_game_that_ends_within_the_four(length: int, brightness: int):
    observation, reward, terminated, _, _ = atari.RepeatAction(Script(length)).step(0)
    assert (observation == brightness).all()
    assert reward == min(length, 4) and terminated == (length <= 4)


def test_gymnasium_interface():
    env = make_atari(PONG, render_mode="rgb_array")
    check_env(env)
    assert env.action_space == gym.spaces.Discrete(6)
    rendered = env.render()
    assert isinstance(rendered, np.ndarray) and rendered.shape == (210, 160, 3)
    env.close()


@pytest.mark.parametrize("preprocessing", PATHS)
def test_no_ops(make_vec, monkeypatch, preprocessing):
    envs = make_vec(PONG, preprocessing, evaluation=True)
    for _ in range(6):
        envs.reset()
        assert envs.reset_infos[0]["episode_frame_number"] == 1
    limit(monkeypatch, 20_000, noop_max=3)
    envs = make_vec(PONG, preprocessing, seed=0)
    counts = set()
    for _ in range(40):
        envs.reset()  # no step between: each is a new game
        counts.add(envs.reset_infos[0]["episode_frame_number"])
    assert counts == {1, 2, 3}


def test_the_protocol():
    assert dataclasses.astuple(atari.TRAINING) == (20_000, 30, True)
    assert dataclasses.astuple(atari.EVALUATION) == (108_000, 1, False)


@pytest.mark.parametrize("preprocessing", PATHS)
def test_a_lost_life_terminates_and_the_game_goes_on(make_vec, preprocessing):
    envs = make_vec(BREAKOUT, preprocessing, num_envs=2, seed=0)
    envs.reset()
    row, _, done, info = play_breakout(envs, "terminal_observation")
    assert done and info["lives"] == 4 and "episode" not in info and not info["TimeLimit.truncated"]
    after = envs.reset_infos[row]
    assert after["episode_frame_number"] == info["episode_frame_number"] + 4
    assert after["lives"] == 4 and "episode" not in after
    lives_before = [info["lives"] for info in envs.step(np.array([FIRE, FIRE]))[3]]
    assert lives_before[row] == 4
    envs.seed(0)
    envs.reset()  # a seed starts a new game after a lost life too
    assert [info["lives"] for info in envs.reset_infos] == [5, 5]
    assert envs.reset_infos[row]["episode_frame_number"] <= 30


@pytest.mark.parametrize("preprocessing", PATHS)
@pytest.mark.parametrize("evaluation", [False, True])
def test_whole_games_are_recorded(make_vec, preprocessing, evaluation):
    """The record holds the whole game: its unclipped return and its agent steps, the no-op steps between lives too."""
    envs = make_vec(BREAKOUT, preprocessing, evaluation=evaluation, seed=0)
    envs.reset()
    start = envs.reset_infos[0]["episode_frame_number"]
    total, episodes, info = 0.0, 0, {}
    while "episode" not in info:
        _, rewards, dones, (info,) = envs.step(np.array([FIRE]))
        total += rewards[0]
        episodes += dones[0]
    assert "terminal_observation" in info and info["lives"] == 0 and not info["TimeLimit.truncated"]
    assert episodes == (1 if evaluation else 5)
    assert info["episode"]["r"] == total
    assert info["episode"]["l"] == -(-(info["episode_frame_number"] - start) // 4)
    assert envs.reset_infos[0]["lives"] == 5 and envs.reset_infos[0]["episode_frame_number"] <= 30


@pytest.mark.parametrize("preprocessing", PATHS)
def test_the_frame_limit_truncates(make_vec, monkeypatch, preprocessing):
    limit(monkeypatch, 41)
    envs = make_vec(PONG, preprocessing, seed=0)
    envs.reset()
    for step in range(20):  # the second game too
        observations, _, dones, infos = envs.step(np.array([0]))
        assert dones[0] == (step % 10 == 9)
        assert infos[0]["TimeLimit.truncated"] == dones[0]
        if dones[0]:
            assert infos[0]["episode_frame_number"] == 41  # with the no-op
            assert infos[0]["episode"]["l"] == 10
            assert infos[0]["terminal_observation"].shape == (64, 64, 3)
            assert (infos[0]["terminal_observation"] != observations[0]).any()


def test_the_limit_holds_in_the_middle_of_a_step(monkeypatch):
    limit(monkeypatch, 39)
    env = make_atari(PONG)
    env.reset()
    for _ in range(9):
        assert not any(env.step(0)[2:4])
    _, _, terminated, truncated, info = env.step(0)
    assert truncated and not terminated and info["episode_frame_number"] == 39
    with pytest.raises(RuntimeError, match="needs reset"):
        env.step(0)
    assert env.reset()[1]["episode_frame_number"] == 1


@pytest.mark.parametrize("preprocessing", PATHS)
def test_a_game_cut_within_the_no_op_step_after_a_lost_life(make_vec, monkeypatch, preprocessing):
    envs = make_vec(BREAKOUT, preprocessing, evaluation=False, seed=0)
    envs.reset()
    _, _, _, info = play_breakout(envs, "terminal_observation")
    first = envs.reset_infos[0]["episode_frame_number"]

    limit(monkeypatch, first - 1, noop_max=30)
    envs = make_vec(BREAKOUT, preprocessing, evaluation=False, seed=0)
    envs.reset()
    _, _, done, info = play_breakout(envs, "terminal_observation")
    assert done and not info["TimeLimit.truncated"] and "episode" not in info
    after = envs.reset_infos[0]
    assert after["lives"] == 5 and 1 <= after["episode_frame_number"] <= 30
    assert after["episode"]["l"] > 10
    _, _, dones, infos = envs.step(np.array([FIRE]))
    assert not dones[0] and infos[0]["episode_frame_number"] == after["episode_frame_number"] + 4


@pytest.mark.parametrize("preprocessing", PATHS)
def test_seeds_repeat_whole_runs(make_vec, preprocessing):
    envs = make_vec(BREAKOUT, preprocessing, num_envs=2)
    assert envs.seed(7) == [7, 8]
    runs = []
    for _ in range(2):  # the second time in games that were played before
        envs.seed(7)
        actions = np.random.default_rng(1).integers(0, 4, (60, 2))
        runs.append([envs.reset()] + [envs.step(action)[0] for action in actions])
    np.testing.assert_array_equal(*runs)


def test_rows_are_independent(make_vec):
    both = make_vec(BREAKOUT, "ale", num_envs=2, seed=7)
    alone = make_vec(BREAKOUT, "ale", num_envs=1, seed=8)
    np.testing.assert_array_equal(both.reset()[1:], alone.reset())
    rng = np.random.default_rng(0)
    for _ in range(150):
        actions = rng.integers(0, 4, 2)
        mine, rewards, dones, _ = both.step(actions)
        other, other_rewards, other_dones, _ = alone.step(actions[1:])
        np.testing.assert_array_equal(mine[1:], other)
        assert rewards[1] == other_rewards[0] and dones[1] == other_dones[0]


def test_the_paths_show_nearly_the_same(make_vec):
    """With one no-op both paths play the same game; they differ in how they resize only."""
    exact, fast = (make_vec(PONG, path, evaluation=True, seed=0) for path in PATHS)
    differences = [np.abs(exact.reset().astype(int) - fast.reset()).mean()]
    for action in np.random.default_rng(0).integers(6, size=80):
        one, rewards, *_ = exact.step(np.array([action]))
        other, other_rewards, *_ = fast.step(np.array([action]))
        differences.append(np.abs(one.astype(int) - other).mean())
        assert rewards == other_rewards
    assert 0 < max(differences) < 2.5


def test_the_fast_path_as_a_vec_env(make_vec):
    envs = make_vec(PONG, "ale", num_envs=3)
    assert isinstance(envs, AtariVecEnv)
    assert envs.action_space == gym.spaces.Discrete(6)
    first = envs.reset()
    assert first.shape == (3, 64, 64, 3) and first.dtype == np.uint8
    second = envs.step(np.array([0, 2, 3]))[0]
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(list(envs.get_images()), second)  # pyright: ignore
    assert envs.env_is_wrapped(Monitor) == [True] * 3 and envs.env_is_wrapped(gym.Wrapper, [1]) == [False]
    assert envs.env_method("get_action_meanings", indices=0)[0][:2] == ["NOOP", "FIRE"]
    envs.set_attr("nickname", "left", indices=[0])
    assert envs.get_attr("nickname", indices=[0]) == ["left"] and not envs.has_attr("nickname")
    image = envs.render()
    assert image is not None and image.shape == (128, 128, 3)
    for bad in ([0, 1, 6], [-1, 0, 0]):
        with pytest.raises(UsageError, match="actions: "):
            envs.step(np.array(bad))
    envs.step(np.array([0, 0, 0]))  # nothing was sent


def test_huge_seeds(make_vec):
    for path in PATHS:
        envs = make_vec(PONG, path, num_envs=1)
        envs.seed(2**32 - 1)
        first = envs.reset()
        envs.seed(2**32 - 1)
        np.testing.assert_array_equal(envs.reset(), first)


def test_games_are_known():
    assert is_atari(PONG) and is_atari("ale_py:ALE/Pong-v5") and is_atari("PongNoFrameskip-v4") and is_atari("ALE/X-v5")
    assert not is_atari("CartPole-v1")
    for make in (make_atari, lambda env_id: AtariVecEnv(env_id, 1)):
        with pytest.raises(UsageError, match=r"'ALE/Pog-v5'.*ALE/Pong-v5"):
            make("ALE/Pog-v5")
        with pytest.raises(UsageError, match="'CartPole-v1' is not an Atari game"):
            make("CartPole-v1")
    with pytest.warns(UserWarning, match="render_mode"), pytest.raises(UsageError, match="cannot be made.*paper"):
        make_atari(PONG, render_mode="paper")

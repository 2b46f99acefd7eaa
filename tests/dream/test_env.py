import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo
from stable_baselines3.common.env_checker import check_env as sb3_check

from iris_gym.dream import DreamEnv

ID = "TestOnly/Dream-v0"
END, STAY = 3, 1


@pytest.fixture
def registered(unscripted, some_frames):
    """Registered, since Gymnasium's checker makes an environment again from its spec."""
    gym.register(ID, entry_point=lambda **keywords: DreamEnv(unscripted, start_frames=some_frames(32), **keywords))
    yield
    del gym.registry[ID]


@pytest.fixture
def env(dynamics, some_frames):
    return DreamEnv(dynamics, start_frames=some_frames(32), render_mode="rgb_array", horizon=6)


def test_it_passes_gymnasiums_check(registered):
    for render_mode in (None, "rgb_array"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gymnasium_check(gym.make(ID, render_mode=render_mode).unwrapped)


def test_it_passes_stable_baselines_check(registered):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check(gym.make(ID).unwrapped)


@pytest.mark.parametrize("obs_type", ["tokens", "latent"])
def test_other_observations_pass_gymnasiums_check(registered, obs_type):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infinity.*")  # vectors of a codebook have no bound
        gymnasium_check(gym.make(ID, obs_type=obs_type).unwrapped)


def test_an_episode(env):
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space and info == {}
    answers = [env.step(action) for action in (STAY, 0, np.int64(STAY), np.array(2), STAY, END)]
    assert [answer[1:] for answer in answers[:2]] == [(0.0, False, False, {}), (-1.0, False, False, {})]
    assert answers[-1][1:] == (1.0, True, True, {})
    assert np.array_equal(env.render(), answers[-1][0])


def test_it_starts_where_it_is_told(env, some_frames):
    images = some_frames(1, seed=9).numpy()
    one, _ = env.reset(options={"initial_frames": images})
    other, _ = env.reset(options={"initial_frames": images[0]})
    with pytest.raises(ValueError, match="initial_frames"):
        env.reset(options={"initial_frames": images[0].tolist()})
    assert np.array_equal(one, other)


def test_log_prob_is_a_number(dynamics, some_frames):
    env = DreamEnv(dynamics, start_frames=some_frames(2), log_probs=True)
    env.reset()
    assert isinstance(env.step(STAY)[4]["log_prob"], float)


def test_a_branch(env):
    env.reset(seed=0), env.step(STAY)
    state = env.get_state()
    expected = [env.step(STAY)[0] for _ in range(4)]
    env.set_state(state)
    assert all(np.array_equal(env.step(STAY)[0], frame) for frame in expected)
    env.set_state(state, seed=5)
    assert not all(np.array_equal(env.step(STAY)[0], frame) for frame in expected)


def test_order_of_calls_and_bad_actions(env):
    with pytest.raises(ResetNeeded):
        env.step(STAY)
    env.reset()
    for action in (4, -1, 1.5, True, [1], None):
        with pytest.raises(InvalidAction):
            env.step(action)
    env.close(), env.close()
    for call in (env.reset, env.render, lambda: env.step(STAY)):
        with pytest.raises(ClosedEnvironmentError):
            call()


def test_gymnasiums_wrappers(env, tmp_path):
    wrapped = RecordVideo(RecordEpisodeStatistics(env), str(tmp_path / "videos"), episode_trigger=lambda _: True)
    wrapped.reset(seed=0)
    for _ in range(6):
        info = wrapped.step(STAY)[4]
    wrapped.close()
    assert (info["episode"]["r"], info["episode"]["l"]) == (0.0, 6)
    assert (tmp_path / "videos" / "rl-video-episode-0.mp4").stat().st_size

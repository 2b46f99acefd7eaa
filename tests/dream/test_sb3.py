import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import ClipReward
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecTransposeImage

from iris_gym.dream import DreamSB3VecEnv
from iris_gym.errors import UsageError

END, LOSE, STAY = 3, 0, 1


@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_ends_and_cuts(make_dream, output):
    env = DreamSB3VecEnv(make_dream(output=output, horizon=3))
    env.seed(0)
    before = env.reset()
    assert before.shape == (3, 64, 64, 3) and before.dtype == np.uint8
    _, rewards, dones, infos = env.step(np.array([STAY, END, LOSE]))
    assert rewards.tolist() == [0, 1, -1] and dones.tolist() == [False, True, False] and dones.dtype == bool
    assert [set(info) for info in infos] == [
        {"TimeLimit.truncated"},
        {"TimeLimit.truncated", "terminal_observation", "episode"},
        {"TimeLimit.truncated"},
    ]
    env.step(np.array([STAY] * 3))
    observations, _, dones, infos = env.step(np.array([STAY, STAY, END]))
    assert dones.tolist() == [True, False, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False, False]  # row 2 ended by itself as well
    assert (infos[2]["episode"]["r"], infos[2]["episode"]["l"]) == (0.0, 3)
    terminal = infos[0]["terminal_observation"]
    assert terminal in env.observation_space and not np.array_equal(terminal, observations[0])


def test_terminal_observations_are_the_dreams_final_ones(make_dream):
    bare, env = make_dream(), DreamSB3VecEnv(make_dream())
    env.seed(4)
    assert np.array_equal(env.reset(), bare.reset(seed=4)[0])
    answer, (observations, _, _, infos) = bare.step([STAY, END, STAY]), env.step(np.array([STAY, END, STAY]))
    assert np.array_equal(observations, answer[0])
    assert np.array_equal(infos[1]["terminal_observation"], answer[4]["final_obs"][1])


def test_a_seed_and_options_count_once(make_dream, some_frames):
    env = DreamSB3VecEnv(make_dream(16))
    env.seed(1)
    first = env.reset()
    env.seed(1)
    assert np.array_equal(env.reset(), first)
    assert not np.array_equal(env.reset(), first)
    env.set_options({"initial_frames": some_frames(16).numpy()})
    started = env.reset()
    assert np.array_equal(started, make_dream(16).reset(options={"initial_frames": some_frames(16)})[0])
    assert not np.array_equal(env.reset(), started)


def test_its_wrappers(make_dream):
    dream = make_dream(horizon=3, log_probs=True, episode_statistics=False)
    env = VecFrameStack(VecTransposeImage(VecMonitor(DreamSB3VecEnv(dream))), 2)
    assert env.reset().shape == (3, 6, 64, 64)
    for _ in range(3):
        _, _, dones, infos = env.step(np.array([STAY] * 3))
    assert dones.all()
    assert infos[0]["terminal_observation"].shape == (6, 64, 64)
    assert infos[0]["episode"]["l"] == 3 and isinstance(infos[0]["log_prob"], float)


def test_vec_monitor_is_told_that_episodes_are_counted_already(make_dream):
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor` wrapper"):
        VecMonitor(DreamSB3VecEnv(make_dream()))


def test_pictures_and_attributes(make_dream):
    env = DreamSB3VecEnv(make_dream(4, render_mode="rgb_array"))
    observations = env.reset()
    assert np.array_equal(np.stack(env.get_images()), observations)
    assert env.render().shape == (128, 128, 3)
    assert env.get_attr("horizon") == [20] * 4 and env.get_attr("horizon", [0, 1]) == [20] * 2
    assert env.has_attr("horizon") and not env.has_attr("nothing")
    assert env.env_is_wrapped(Monitor) == [True] * 4 and env.env_is_wrapped(type) == [False] * 4
    env.set_attr("horizon", 5)
    assert env.dream.horizon == 5
    assert len(env.env_method("get_state")) == 4
    env.close()
    assert env.dream.closed


def test_ppo_learns_what_ends_well(make_dream):
    """Action 3 earns 1 and begins anew: a policy that sees nothing of use still finds it."""
    torch.manual_seed(0)
    env = DreamSB3VecEnv(make_dream(8, obs_type="tokens", horizon=6))
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=64, n_epochs=5, learning_rate=1e-2, seed=0, device="cpu")
    agent.learn(1500)
    assert len(agent.ep_info_buffer) > 20
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=16)
    assert mean > 0.9


def test_without_statistics_of_the_dream_those_of_vec_monitor_are_there(make_dream):
    env = DreamSB3VecEnv(make_dream(2, horizon=1, episode_statistics=False))
    assert env.env_is_wrapped(Monitor) == [False] * 2
    env.reset()
    assert "episode" not in env.step(np.array([0, 1]))[3][0]
    monitored = VecMonitor(env)
    monitored.reset()
    assert [info["episode"]["r"] for info in monitored.step(np.array([0, 1]))[3]] == [-1, 0]


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_another_autoreset_mode_is_refused(make_dream, mode):
    with pytest.raises(UsageError, match=f"autoreset_mode='{mode}'"):
        DreamSB3VecEnv(make_dream(autoreset_mode=mode))


def test_a_dream_in_vector_wrappers(make_dream):
    env = DreamSB3VecEnv(ClipReward(make_dream(output="numpy"), 0, 0.5))
    env.reset()
    _, rewards, dones, infos = env.step(np.array([STAY, END, LOSE]))
    assert rewards.tolist() == [0, 0.5, 0] and dones.tolist() == [False, True, False]
    assert "terminal_observation" in infos[1]
    env.set_attr("horizon", 7)
    assert env.get_attr("horizon", [0]) == [7] and env.dream.unwrapped.horizon == 7
    assert not env.has_attr("nothing")
    assert len(env.env_method("get_state", indices=[1])) == 1


def test_a_single_dream_is_refused(make_dream):
    with pytest.raises(UsageError, match="is no vector environment; take agent.make_dream_env or make_vec"):
        DreamSB3VecEnv(object())

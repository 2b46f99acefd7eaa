"""Dreams of saved agents: by Gymnasium's ids and from the agent, and what of them travels with a save."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordVideo
from stable_baselines3.common.env_checker import check_env as sb3_check

from iris_gym import IRISAgent, IRISConfig, UsageError, registration
from iris_gym.training.run_folder import read_snapshot

ID = "IrisGym/Dream-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `run`, a run folder, and `agent.zip`, saved from the same agent."""
    path = tmp_path_factory.mktemp("saved")
    agent = IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(), seed=0, device="cpu", run_dir=path / "run")
    agent.learn(60)
    agent.save(path / "agent.zip")
    return path


@pytest.fixture
def agent(folder):
    return IRISAgent.load(folder / "agent.zip", device="cpu")


@pytest.mark.parametrize("name", ["run", "agent.zip"])
def test_make(folder, name):
    env = gym.make(ID, checkpoint=str(folder / name), horizon=7, greedy=True, device="cpu")
    first, _ = env.reset(seed=0)
    assert first in env.observation_space and env.action_space == gym.spaces.Discrete(3)
    assert env.metadata["render_fps"] == 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped)
        sb3_check(env.unwrapped)


def test_gymnasiums_render_wrappers_know_what_it_renders(folder):
    env = gym.make(ID, checkpoint=str(folder / "run"), render_mode="rgb_array_list")
    env.reset(seed=0), env.step(0)
    assert [frame.shape for frame in env.render()] == [(64, 64, 3)] * 2


@pytest.mark.parametrize("name", ["run", "agent.zip"])
def test_make_vec_takes_every_keyword(folder, name):
    env = gym.make_vec(
        "iris_gym:" + ID,
        num_envs=3,
        checkpoint=folder / name,
        horizon=None,
        autoreset_mode="NextStep",
        output="numpy",
        obs_type="tokens",
        temperature=0.5,
        greedy=True,
        overflow_context=1,
        log_probs=True,
        render_mode="rgb_array",
        start_frames=np.zeros((1, 64, 64, 3), np.uint8),
        device="cpu",
    )
    observations, _ = env.reset(seed=0)
    assert observations.shape == (3, 16) and observations.dtype == np.int64
    assert (observations == observations[0]).all()
    assert env.step(np.zeros(3, int))[4]["log_prob"].shape == (3,)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert env.spec.id == ID


def test_gymnasiums_own_vectorization(folder):
    env = gym.make_vec(ID, num_envs=2, vectorization_mode="sync", checkpoint=str(folder / "run"))
    assert env.reset(seed=0)[0].shape == (2, 64, 64, 3)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_videos_of_several_dreams(folder, tmp_path, mode):
    env = gym.make_vec(ID, num_envs=4, checkpoint=str(folder / "run"), render_mode="rgb_array", autoreset_mode=mode)
    recorder = RecordVideo(env, str(tmp_path / "videos"), step_trigger=lambda step: step == 0, video_length=4)
    recorder.reset(seed=0)
    for _ in range(6):
        recorder.step(np.zeros(4, int))
    recorder.close()
    assert (tmp_path / "videos" / "rl-video-step-0.mp4").stat().st_size


def test_importing_the_package_registers_without_torch():
    code = "import sys, iris_gym, gymnasium; gymnasium.spec('IrisGym/Dream-v0'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_making_a_dream_leaves_torchs_random_state_alone(folder):
    before = torch.get_rng_state()
    gym.make(ID, checkpoint=str(folder / "agent.zip")).reset()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("checkpoint", ["nowhere", "nowhere.zip"])
def test_a_checkpoint_that_is_not_there(checkpoint):
    with pytest.raises(UsageError, match="nowhere"):
        gym.make(ID, checkpoint=checkpoint)


def test_a_name_with_a_dot_is_looked_for_on_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(registration, "read_shared", lambda name: asked.append(name) or read_snapshot("nowhere"))
    for checkpoint in ("me/pong-v1.5", "me/pong.zip"):
        with pytest.raises(UsageError):
            gym.make(ID, checkpoint=checkpoint)
    assert asked == ["me/pong-v1.5"]


def test_a_zip_is_found_by_its_name_without_the_suffix(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert gym.make(ID, checkpoint=f"{folder.name}/agent").action_space == gym.spaces.Discrete(3)


def test_live_networks_are_refused(agent):
    with pytest.raises(UsageError, match="checkpoint is a Models; give the path"):
        gym.make(ID, checkpoint=agent.models)


# From the agent


def test_an_agent_dreams_from_its_replay():
    agent = IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(), seed=0, device="cpu").learn(60)
    env = agent.make_dream_env(4, horizon=3, obs_type="tokens")
    stored = agent.replay.sample_segments(200, 1, generator=np.random.default_rng(0), align="start").frames[:, 0]
    tokens = agent.models.tokenizer.encode(stored.float() / 255)
    assert {tuple(row) for row in env.reset(seed=0)[0].tolist()} <= {tuple(row) for row in tokens.tolist()}
    assert env.metadata["render_fps"] == 15


def test_a_loaded_agent_dreams_without_its_replay(agent, folder):
    assert not len(agent.replay)
    env = agent.make_dream_env(4, horizon=3)
    assert env.reset(seed=0)[0].shape == (4, 64, 64, 3)
    other = gym.make_vec(ID, num_envs=4, checkpoint=str(folder / "agent.zip"), horizon=3)
    assert torch.equal(env.reset(seed=1)[0], other.reset(seed=1)[0])
    assert torch.equal(env.step([0] * 4)[0], other.step([0] * 4)[0])


def test_the_saved_frames_are_the_replays_and_are_saved_again(agent, folder, tmp_path):
    saved = read_snapshot(folder / "agent.zip").start_frames
    assert saved.shape == (60, 3, 64, 64) and saved.dtype == torch.uint8
    agent.save(tmp_path / "again.zip")
    assert torch.equal(read_snapshot(tmp_path / "again.zip").start_frames, saved)
    frames = np.memmap(folder / "run" / "replay" / "frames.bin", np.uint8, "r").reshape(-1, 3 * 64 * 64)[:60]
    stored = {row.tobytes() for row in frames}
    assert all(frame.numpy().tobytes() in stored for frame in saved)


def test_saving_draws_from_no_random_stream(tmp_path):
    def weights(saves: bool) -> dict[str, torch.Tensor]:
        agent = IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(), seed=0, device="cpu").learn(60)
        if saves:
            agent.save(tmp_path / "agent.zip")
        return agent.learn(20, reset_num_timesteps=False).models.world_model.state_dict()

    one, other = weights(True), weights(False)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_agent_that_has_seen_nothing():
    agent = IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(), seed=0, device="cpu")
    with pytest.warns(UserWarning, match="no update at all"), pytest.raises(UsageError, match="start_frames=None"):
        agent.make_dream_env(2)


def test_components_without_an_update_are_named(tmp_path):
    config = IRISConfig.tiny(actor_critic_updates_per_epoch=0)
    agent = IRISAgent("MinAtar/Breakout-v1", config, seed=0, device="cpu")
    with pytest.warns(UserWarning, match="before the first update of the world_model"):
        agent.learn(20)
    agent.save(tmp_path / "early.zip")
    for make in (lambda: gym.make(ID, checkpoint=str(tmp_path / "early.zip")), lambda: agent.make_dream_env(2)):
        with pytest.warns(UserWarning) as warned:
            make()
        named = [str(warning.message) for warning in warned if "no update at all" in str(warning.message)]
        assert [message.split()[1] for message in named] == ["world_model", "actor_critic"]

"""The agent as a user of Stable-Baselines3 meets it, on real Pong and on a game of seven steps."""

import copy
import csv
import gc
import io
import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iris_gym import IRISAgent, IRISConfig, UsageError, make_env
from iris_gym.data.replay import Replay
from iris_gym.errors import RunError
from iris_gym.nn import perceptual
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.imitation import Imitation
from iris_gym.training.novelty import Novelty, hashed
from iris_gym.training.trainer import EpochEnded, Position, StepTaken, UpdateDone

GAME_LENGTH = 7
OTHER_LAYOUTS = {"channels last": (40, 48, 3), "channels first": (3, 40, 48), "grey": (40, 48, 1)}


class Corridor(gym.Env):
    """Seven steps that bring 1, 2, … 7; the picture grows brighter on the way."""

    action_space = spaces.Discrete(3)

    def __init__(self, shape: tuple[int, ...] = (40, 48, 3)) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._picture(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self._picture(), float(self.steps), self.steps == GAME_LENGTH, False, {}

    def _picture(self):
        return np.full(self.observation_space.shape, 30 * self.steps, np.uint8)


class Recorder(BaseCallback):
    """Writes down which hook was called when, and the locals of the last step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.called: list[str] = []
        self.stop_at = stop_at

    def _on_training_start(self) -> None:
        self.called.append("training_start")
        self.names_at_start = set(self.locals)

    def _on_rollout_start(self) -> None:
        self.called.append("rollout_start")

    def _on_step(self) -> bool:
        self.called.append("step")
        self.step_locals = dict(self.locals)
        return self.num_timesteps != self.stop_at

    def _on_rollout_end(self) -> None:
        self.called.append("rollout_end")

    def _on_training_end(self) -> None:
        self.called.append("training_end")


def new_agent(env="corridor", *, seed=0, run_dir=None, **changes) -> IRISAgent:
    env = Corridor() if env == "corridor" else env
    return IRISAgent(env, IRISConfig.tiny(**changes), seed=seed, device="cpu", run_dir=run_dir)


def short_pong(steps: int = 20) -> Monitor:
    return Monitor(gym.wrappers.TimeLimit(make_env("ALE/Pong-v5", evaluation=True), steps))


def weights(agent: IRISAgent) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


def assert_same_weights(one: IRISAgent, other: IRISAgent) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def pictures(count: int, shape: tuple[int, ...] = (40, 48, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def quiet_learn(agent: IRISAgent, steps: int, callback=None, **options) -> IRISAgent:
    """Learn for fewer steps than each component needs to start, which would warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "learning ends at", UserWarning)
        return agent.learn(steps, callback, **options)


@pytest.fixture(scope="module")
def pong() -> IRISAgent:
    """Three epochs of real Pong: every component has learned. Not to be changed."""
    return new_agent("ALE/Pong-v5").learn(60)


@pytest.fixture(scope="module")
def walker() -> IRISAgent:
    """Three epochs of the game of seven steps. Not to be changed."""
    return new_agent().learn(60)


# ------------------------------------------------------------------ learning


def test_every_component_learns_on_real_pong(pong):
    assert pong.num_timesteps == pong.trainer.env_steps == len(pong.replay) == 60
    assert {learner.name: learner.updates for learner in pong.trainer.learners} == {
        "autoencoder": 9,
        "world_model": 4,
        "actor_critic": 2,
    }
    fresh = new_agent("ALE/Pong-v5", seed=0)
    for component in ("tokenizer", "world_model", "actor_critic"):
        trained, untrained = (getattr(agent.models, component).state_dict() for agent in (pong, fresh))
        assert any(not torch.equal(trained[name], untrained[name]) for name in trained)
    assert all(torch.isfinite(value).all() for value in weights(pong).values())


def test_models_are_left_in_evaluation_mode(pong):
    assert not any(module.training for module in pong.models.by_name().values())


def test_learn_collects_exactly_the_steps_asked_for_and_ends_the_epoch():
    agent = quiet_learn(new_agent(), 30)
    assert agent.num_timesteps == agent.trainer.env_steps == 30
    assert agent.trainer.position.epoch == 3
    assert agent.trainer.learners[0].updates == 6


def test_learning_twice_counts_anew_or_goes_on():
    agent = quiet_learn(new_agent(), 25)
    quiet_learn(agent, 10)
    assert (agent.num_timesteps, agent.trainer.env_steps) == (10, 35)
    quiet_learn(agent, 15, reset_num_timesteps=False)
    assert (agent.num_timesteps, agent.trainer.env_steps) == (25, 50)


def test_going_on_keeps_the_game_and_counting_anew_cuts_it_off():
    agent = quiet_learn(new_agent(), 10)
    quiet_learn(agent, 10, reset_num_timesteps=False)
    assert [(len(episode), episode.truncated) for episode in agent.replay.episodes] == [
        (7, False),
        (7, False),
        (6, False),
    ]
    quiet_learn(agent, 10)
    assert [(len(episode), episode.truncated) for episode in agent.replay.episodes[2:]] == [
        (6, True),
        (7, False),
        (3, False),
    ]


def test_stopping_in_mid_collection_and_going_on_leaves_nothing_out(walker):
    stopped = quiet_learn(new_agent(), 60, Recorder(stop_at=33))
    assert stopped.num_timesteps == 33
    assert (stopped.trainer.position.epoch, stopped.trainer.position.done) == (2, 13)
    stopped.learn(27, reset_num_timesteps=False)
    assert stopped.num_timesteps == 60
    assert [len(episode) for episode in stopped.replay.episodes] == [len(each) for each in walker.replay.episodes]
    assert [learner.updates for learner in stopped.trainer.learners] == [9, 4, 2]


def test_stopping_between_two_updates_and_going_on_changes_nothing(walker):
    stopped = new_agent()
    for event in stopped.learn_events(60):
        if isinstance(event, UpdateDone) and stopped.trainer.position.epoch == 3:
            break
    list(stopped.learn_events(0, reset_num_timesteps=False))
    assert_same_weights(stopped, walker)


def test_learning_that_was_interrupted_in_a_step_goes_on_with_a_reset():
    """As by an interrupt in a notebook: nobody knows then where the environment stands."""

    class Interrupted(Corridor):
        def step(self, action):
            answer = super().step(action)
            if self.steps == 3 and not hasattr(Interrupted, "once"):
                Interrupted.once = True
                raise KeyboardInterrupt
            return answer

    agent = new_agent(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        quiet_learn(agent, 20)
    quiet_learn(agent, 10, reset_num_timesteps=False)
    assert [len(episode) for episode in agent.replay.episodes] == [2, 7, 3]
    frames, _, rewards, _ = agent.replay.transitions(0, 12)
    assert frames[:, 0, 0, 0].tolist() == [30 * (step % 7) for step in (0, 1, *range(7), *range(3))]
    assert rewards.tolist() == [1, 2, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3]


def test_callbacks_are_called_in_the_order_of_stable_baselines3():
    recorder = Recorder()
    quiet_learn(new_agent(env_steps_per_epoch=2), 3, recorder)
    assert recorder.called == [
        "training_start",
        *("rollout_start", "step", "step", "rollout_end"),
        *("rollout_start", "step", "rollout_end"),
        "training_end",
    ]


def test_callbacks_see_the_locals_of_stable_baselines3():
    recorder = Recorder()
    agent = quiet_learn(new_agent(), GAME_LENGTH, recorder)
    assert {"self", "total_timesteps"} <= recorder.names_at_start
    seen = recorder.step_locals
    assert seen["self"] is agent
    assert seen["total_timesteps"] == GAME_LENGTH
    assert seen["rewards"].tolist() == [GAME_LENGTH]
    assert seen["dones"].tolist() == [True]
    assert seen["infos"][0]["episode"]["r"] == 28
    assert seen["actions"].shape == (1,)
    assert seen["new_obs"].shape == (1, 40, 48, 3)
    assert not seen["new_obs"].any(), "the first picture of the next game"


def test_what_a_callback_cannot_begin_with_is_not_the_environments_fault():
    with pytest.raises(AttributeError, match="'function' object has no attribute 'init_callback'"):
        new_agent().learn(8, [lambda *_: True])


def test_a_function_serves_as_callback():
    steps = []
    quiet_learn(new_agent(), 3, lambda names, _: steps.append(int(names["dones"].sum())) is None)
    assert steps == [0, 0, 0]


def test_a_callback_that_returns_false_ends_training():
    recorder = Recorder(stop_at=5)
    agent = quiet_learn(new_agent(), 20, recorder)
    assert agent.num_timesteps == 5
    assert recorder.called[-2:] == ["step", "training_end"]


def test_stop_training_on_max_episodes():
    agent = quiet_learn(new_agent(), 60, StopTrainingOnMaxEpisodes(max_episodes=2))
    assert agent.num_timesteps == 2 * GAME_LENGTH


def test_stop_training_on_reward_threshold(tmp_path):
    stop = StopTrainingOnRewardThreshold(reward_threshold=28)
    evaluation = EvalCallback(
        Monitor(Corridor()),
        callback_on_new_best=stop,
        n_eval_episodes=2,
        eval_freq=10,
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    agent = quiet_learn(new_agent(), 60, evaluation)
    assert agent.num_timesteps == 10
    assert evaluation.last_mean_reward == 28
    assert_same_weights(IRISAgent.load(tmp_path / "best_model.zip", device="cpu"), agent)


def test_what_is_saved_at_the_end_of_a_collection_learns_on_without_its_replay(tmp_path):
    new_agent().learn(60, CheckpointCallback(20, str(tmp_path)))
    for steps in (20, 40, 60):
        loaded = IRISAgent.load(tmp_path / f"rl_model_{steps}_steps.zip", env=Corridor(), device="cpu")
        quiet_learn(loaded, 20, reset_num_timesteps=False)
        assert loaded.num_timesteps == steps + 20
        assert loaded.trainer.position == Position(steps // 20 + 1)
        assert loaded.trainer.learners[0].updates == 3 * (steps // 20)


def test_checkpoint_callback_saves_what_load_reads(tmp_path):
    agent = quiet_learn(new_agent(), 20, CheckpointCallback(10, str(tmp_path), name_prefix="iris"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iris_10_steps.zip", "iris_20_steps.zip"]
    assert IRISAgent.load(tmp_path / "iris_10_steps", device="cpu").num_timesteps == 10
    assert agent.num_timesteps == 20


def test_progress_bar(capsys):
    quiet_learn(new_agent(), 5, progress_bar=True)
    assert "5/5" in "".join(capsys.readouterr())


def test_the_info_buffer_holds_whole_games():
    agent = quiet_learn(new_agent(), 3 * GAME_LENGTH + 2)
    assert [(info["r"], info["l"]) for info in agent.ep_info_buffer] == [(28, 7)] * 3


class Succeeding(Corridor):
    """Says of every other episode that it was a success."""

    episodes = 0

    def step(self, action):
        *outcome, _ = super().step(action)
        self.episodes += outcome[2]
        return *outcome, {"is_success": self.episodes % 2 == 1} if outcome[2] else {}


def test_the_share_of_successes_is_logged(tmp_path):
    agent = new_agent(Succeeding(), run_dir=tmp_path / "run")
    quiet_learn(agent, 3 * GAME_LENGTH - 1)
    assert csv_rows(tmp_path / "run" / "logs" / "progress.csv")[-1]["rollout/success_rate"] == "0.5"


class Bent(Corridor):
    """Its pictures are not what its space says."""

    def _picture(self):
        return super()._picture() / 255


def test_pictures_that_are_not_those_of_the_space_are_not_bent_to_fit():
    with pytest.raises(RunError, match="an observation of shape .* and dtype float64, where its space says"):
        new_agent(Bent()).learn(20)


class WithoutTime(VecEnvWrapper):
    """Tells of an episode no more than Stable-Baselines3 needs."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        *outcome, infos = self.venv.step_wait()
        for info in infos:
            info.get("episode", {}).pop("t", None)
        return *outcome, infos


def test_an_episode_without_its_seconds_is_kept_all_the_same(tmp_path):
    env = WithoutTime(DummyVecEnv([lambda: Monitor(Corridor())]))
    quiet_learn(new_agent(env, run_dir=tmp_path / "run"), 20)
    resumed = IRISAgent.resume(tmp_path / "run", env=DummyVecEnv([lambda: Monitor(Corridor())]), device="cpu")
    assert [info["r"] for info in resumed.ep_info_buffer] == [28, 28]


def test_an_object_is_no_game_of_the_config(tmp_path):
    agent = new_agent(max_env_steps=50, run_dir=tmp_path / "run")
    assert agent.config.env == "Corridor" and agent.env_id is None
    assert json.loads((tmp_path / "run" / "config.json").read_text())["env"] == "Corridor"
    assert new_agent(short_pong()).config.env == short_pong().spec.id


def test_a_component_that_never_starts_is_named_in_a_warning():
    with pytest.warns(UserWarning, match=r"learning ends at 40 .* first update of the actor_critic.* after 40"):
        new_agent().learn(40)


def test_a_component_that_never_is_to_start_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = new_agent(actor_critic_updates_per_epoch=0).learn(40)
    assert [bool(learner.updates) for learner in agent.trainer.learners] == [True, True, False]


def test_training_goes_on_without_collecting_when_all_steps_are_collected():
    agent = new_agent(max_env_steps=50)
    with pytest.warns(UserWarning, match="of 1,000 environment steps 50 are collected, for then max_env_steps=50"):
        events = list(agent.learn_events(1000))
    assert agent.num_timesteps == agent.trainer.env_steps == 50
    assert [event.epoch for event in events if isinstance(event, EpochEnded)] == [1, 2, 3, 4, 5]
    last = max(index for index, event in enumerate(events) if isinstance(event, StepTaken))
    assert sum(isinstance(event, UpdateDone) for event in events[last:]) == 3 * (3 + 2 + 2)


def test_who_learns_for_longer_than_is_collected_is_told_so():
    agent = quiet_learn(new_agent(max_env_steps=20, total_epochs=1), 20)
    with pytest.warns(UserWarning) as told:
        agent.learn(30, reset_num_timesteps=False)
    assert "of 30 environment steps 0 are collected" in str(told[0].message)
    with pytest.warns(UserWarning) as told:
        new_agent(max_env_steps=20, total_epochs=1).learn(300)
    messages = [str(warning.message) for warning in told]
    assert any("of 300 environment steps 20 are collected" in message for message in messages)
    assert any("learning ends at 20 environment steps, before the first update" in message for message in messages)


def test_where_several_environments_step_at_once_epochs_are_longer():
    agent = new_agent(DummyVecEnv([Corridor] * 3), env_steps_per_epoch=20)
    with pytest.warns(UserWarning, match="at 42 .*the actor_critic, which comes after 42; learn for longer"):
        agent.learn(42)
    assert agent.trainer.position.epoch == 3


def test_what_is_saved_when_all_is_collected_needs_the_replay_that_it_has_not(tmp_path):
    agent = new_agent(max_env_steps=40, total_epochs=6)
    for event in agent.learn_events(40):
        if isinstance(event, EpochEnded) and event.epoch == 3:
            break
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(UsageError, match="the replay is empty, .* all of max_env_steps=40 are collected"):
        IRISAgent.load(tmp_path / "agent.zip", env=Corridor(), device="cpu").learn(20)


def test_training_ends_for_callbacks_where_events_are_left_early():
    agent, callback = new_agent(), Recorder()
    for _ in zip(range(5), agent.learn_events(60, callback), strict=False):
        pass
    assert callback.called[-2:] == ["step", "training_end"]


def test_learning_ends_at_its_steps_while_there_are_more_to_collect():
    agent = new_agent(max_env_steps=100, total_epochs=50).learn(60)
    assert agent.num_timesteps == 60
    assert agent.trainer.position.epoch == 4


def test_steps_may_be_written_as_1e5():
    assert quiet_learn(new_agent(), 2e1).num_timesteps == 20


@pytest.mark.parametrize("steps", [0, -5, 2.5, float("nan"), float("inf"), "100"])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(UsageError, match="total_timesteps"):
        new_agent().learn(steps)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(pong):
    assert_same_weights(pong, new_agent("ALE/Pong-v5").learn(60))
    with pytest.raises(AssertionError):
        assert_same_weights(pong, new_agent("ALE/Pong-v5", seed=6).learn(60))


def test_evaluating_in_between_does_not_change_the_training(pong):
    evaluation = EvalCallback(short_pong(), n_eval_episodes=1, eval_freq=15, deterministic=False, verbose=0)
    watched = new_agent("ALE/Pong-v5").learn(60, evaluation)
    assert evaluation.n_calls == 60
    assert np.isfinite(evaluation.last_mean_reward)
    assert_same_weights(watched, pong)


def test_the_schedules_own_evaluation_is_logged_once_the_actor_critic_has_learned(tmp_path):
    agent = new_agent("MiniGrid-Empty-5x5-v0", eval_interval=1, start_actor_critic_after=1)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    quiet_learn(agent, 40)
    agent.logger.close()
    before, row = csv_rows(tmp_path / "progress.csv")
    assert before["evaluation/mean_return"] == ""
    assert 0 <= float(row["evaluation/mean_return"]) <= 1
    assert 1 <= float(row["evaluation/mean_length"]) <= 100


def test_a_perceptual_distance_that_cannot_be_had_is_told_before_anything_is_collected(monkeypatch):
    def unavailable():
        raise UsageError("not here")

    monkeypatch.setattr(perceptual, "load_lpips", unavailable)
    agent = new_agent(perceptual_weight=1.0)
    with pytest.raises(UsageError, match="not here"):
        quiet_learn(agent, 20)
    assert len(agent.replay) == agent.num_timesteps == 0
    without = new_agent(perceptual_weight=1.0, autoencoder_updates_per_epoch=0)
    assert quiet_learn(without, 20).num_timesteps == 20


# ------------------------------------------------------------------ logging


def test_the_table_is_printed_where_asked_for(capsys):
    agent = IRISAgent(Corridor(), IRISConfig.tiny(), verbose=1, seed=0, device="cpu")
    quiet_learn(agent, 20)
    printed = capsys.readouterr().out
    for name in ("reconstruction_loss", "ep_rew_mean", "total_timesteps", "active_codes"):
        assert name in printed


def test_nothing_is_printed_by_default(capsys):
    quiet_learn(new_agent(), 20)
    assert capsys.readouterr() == ("", "")


def test_tensorboard_files_hold_the_metrics(tmp_path):
    agent = IRISAgent(Corridor(), IRISConfig.tiny(), tensorboard_log=str(tmp_path), seed=0, device="cpu")
    agent.learn(60, tb_log_name="mine")
    agent.logger.close()
    folder = tmp_path / "mine_1"
    assert [step for step, _ in scalars(folder, "autoencoder/reconstruction_loss")] == [20, 40, 60]
    assert [step for step, _ in scalars(folder, "world_model/token_accuracy")] == [40, 60]
    assert [step for step, _ in scalars(folder, "actor_critic/entropy")] == [60]
    assert scalars(folder, "rollout/ep_rew_mean")[-1] == (60, 28)
    assert [step for step, _ in scalars(folder, "actor_critic/imagined_return")] == [60]
    imagined, real = (scalars(folder, f"{name}_return") for name in ("actor_critic/imagined", "rollout/real"))
    assert [step for step, _ in imagined] == [60] and [step for step, _ in real] == [20, 40, 60]
    over = [min(3, GAME_LENGTH - start % GAME_LENGTH) for start in range(38, 58)]  # the steps that had three by then
    assert real[-1][1] == pytest.approx(np.mean(over))


def test_curves_go_on_when_nothing_is_collected_any_more(tmp_path):
    config = IRISConfig.tiny(atari_100k=False, max_env_steps=40)
    agent = IRISAgent(Corridor(), config, seed=0, device="cpu", run_dir=tmp_path / "run")
    agent.learn(40)
    agent.logger.close()
    logs = tmp_path / "run" / "logs"
    assert [step for step, _ in scalars(logs, "autoencoder/loss")] == [20, 40, 60, 80, 100]
    rows = csv_rows(logs / "progress.csv")
    assert [(row["time/epoch"], row["time/total_timesteps"]) for row in rows] == [
        ("1", "20"), ("2", "40"), ("3", "40"), ("4", "40"), ("5", "40")
    ]  # fmt: skip
    for name in ("env_steps", "autoencoder_updates", "world_model_updates", "actor_critic_updates"):
        assert all(rate > 0 for _, rate in scalars(logs, f"time/{name}_per_second"))
    assert [step for step, _ in scalars(logs, "time/env_steps_per_second")] == [20, 40]
    assert 0.05 < scalars(logs, "time/memory_gb")[0][1] < 100
    assert not any("per_second" in name or "media" in name for name in rows[0])  # other machines, same file


@pytest.mark.parametrize("where", ["tensorboard_log", "run_dir"])
def test_tensorboard_shows_pictures_at_every_checkpoint(where, tmp_path):
    agent = IRISAgent(Corridor(), IRISConfig.tiny(), seed=0, device="cpu", **{where: tmp_path / "logs"})
    agent.learn(80)
    agent.logger.close()
    (folder,) = {path.parent for path in (tmp_path / "logs").rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    for name in ("media/reconstructions", "media/dream", "media/dream_film"):
        assert [image.step for image in events.Images(name)] == [40, 80]
    assert all(image.encoded_image_string.startswith(b"GIF8") for image in events.Images("media/dream_film"))


def test_a_logger_of_the_users_own_is_used(tmp_path):
    agent = new_agent(run_dir=tmp_path / "run")
    agent.set_logger(configure(str(tmp_path / "own"), ["csv"]))
    agent.learn(60, log_interval=2)
    agent.logger.close()
    rows = csv_rows(tmp_path / "own" / "progress.csv")
    assert [int(row["time/total_timesteps"]) for row in rows] == [40]
    assert not (tmp_path / "run" / "logs").exists()


@pytest.mark.parametrize("interval", [None, 0])
def test_no_log_interval_logs_nothing(interval, tmp_path):
    agent = new_agent()
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    quiet_learn(agent, 20, log_interval=interval)
    agent.logger.close()
    assert (tmp_path / "progress.csv").read_text() == ""


# ------------------------------------------------------------------ environments


@pytest.mark.parametrize("shape", OTHER_LAYOUTS.values(), ids=OTHER_LAYOUTS)
@pytest.mark.filterwarnings("ignore:It seems that your observation space  is an image")
def test_images_of_another_size_and_layout_are_learned_from(shape):
    agent = quiet_learn(new_agent(Corridor(shape)), 25)
    frames = agent.replay.sample_segments(4, 1, generator=np.random.default_rng(0), align="start").frames
    assert frames.shape == (4, 1, 3, 64, 64)
    assert set(frames.unique().tolist()) <= {30 * steps for steps in range(GAME_LENGTH)}


def test_two_rows_are_played_at_once():
    agent = new_agent(DummyVecEnv([lambda: Monitor(Corridor())] * 2))
    recorder = Recorder()
    agent.learn(60, recorder)
    assert agent.num_timesteps == len(agent.replay) == 60
    assert recorder.called.count("step") == 30
    assert len(agent.ep_info_buffer) == 2 * (30 // GAME_LENGTH)


def test_minigrid_is_learned_from_by_its_id():
    agent = quiet_learn(new_agent("MiniGrid-Empty-5x5-v0"), 25)
    assert agent.action_space.n == 7
    assert agent.env_id == agent.config.env == "MiniGrid-Empty-5x5-v0"


def test_without_an_environment_the_config_names_it():
    assert IRISAgent(config=IRISConfig.tiny(env="MiniGrid-Empty-5x5-v0"), device="cpu").action_space.n == 7


def test_a_life_lost_is_no_whole_game_in_the_info_buffer():
    """Breakout without a paddle that moves loses lives quickly."""
    agent = new_agent("ALE/Breakout-v5", env_steps_per_epoch=400, autoencoder_updates_per_epoch=0)
    quiet_learn(agent, 400)
    games = [info["l"] for info in agent.ep_info_buffer]
    ended = [episode for episode in agent.replay.episodes if episode.terminated]
    assert len(ended) > 2 * len(games)
    assert all(length > max(len(episode) for episode in ended) for length in games)


def test_no_burn_in_is_possible():
    agent = new_agent(burn_in=0).learn(60)
    assert all(learner.updates for learner in agent.trainer.learners)


def test_set_env_goes_on_in_another_game_of_the_same_kind():
    agent = quiet_learn(new_agent(), 10)
    agent.set_env(Corridor())
    quiet_learn(agent, 10, reset_num_timesteps=False)
    assert agent.num_timesteps == 20
    assert [len(episode) for episode in agent.replay.episodes] == [7, 3, 7, 3]


def test_set_env_without_a_reset_plays_on_from_the_last_observation():
    agent = quiet_learn(new_agent(), 10)
    agent.set_env(agent.get_env(), force_reset=False)
    quiet_learn(agent, 10, reset_num_timesteps=False)
    assert [len(episode) for episode in agent.replay.episodes] == [7, 3, 4, 6]


def test_set_env_refuses_another_kind_of_game():
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        new_agent().set_env(Corridor((50, 50, 3)))
    with pytest.raises(UsageError, match="env=None is no environment"):
        new_agent().set_env(None)


def test_set_env_of_an_agent_without_one_takes_what_load_does(tmp_path):
    quiet_learn(new_agent(), 10).save(tmp_path / "agent.zip")
    agent = IRISAgent.load(tmp_path / "agent.zip", device="cpu")
    more = Corridor()
    more.action_space = spaces.Discrete(5)
    with pytest.raises(UsageError, match="env='Corridor' has 5 actions, the agent was made for 3"):
        agent.set_env(more)
    agent.set_env(DummyVecEnv([lambda: Monitor(Corridor((50, 60, 1)))] * 2))
    quiet_learn(agent, 20)
    assert (agent.n_envs, len(agent.replay), agent.config.env) == (2, 20, "DummyVecEnv")
    assert agent.predict(pictures(1, (50, 60, 1))[0])[0].shape == ()


def test_set_env_takes_an_id(pong, tmp_path):
    agent = IRISAgent(make_env("ALE/Pong-v5"), pong.config, seed=0, device="cpu")
    assert agent.env_id is None
    agent.set_env("ALE/Pong-v5")
    agent.save(tmp_path / "agent.zip")
    assert IRISAgent.load(tmp_path / "agent.zip").env_id == agent.env_id == agent.config.env == "ALE/Pong-v5"
    assert agent.trainer.evaluate is not None


def test_a_copy_is_refused():
    """It would count updates, and train the networks of the first."""
    agent = new_agent()
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="cannot be copied or pickled; save it, and load it with an env"):
            copied(agent)


@pytest.mark.parametrize("steps", [-5, True, 0.5, np.float64("inf"), float("nan")])
def test_steps_that_cannot_be_learned_for(steps):
    with pytest.raises(UsageError, match=re.escape(f"total_timesteps={steps!r} must be a whole number, at least 0")):
        next(new_agent().learn_events(steps))


def test_saving_to_what_is_no_path():
    with pytest.raises(UsageError, match="path=.*BytesIO.* is no path"):
        new_agent().save(io.BytesIO())


# ------------------------------------------------------------------ acting


@pytest.mark.parametrize("shape", [(210, 160, 3), (3, 64, 64), (64, 64, 3), (3, 84, 84)])
def test_predict_takes_one_picture_or_several(pong, shape):
    action, state = pong.predict(pictures(1, shape)[0])
    assert action.shape == ()
    assert pong.action_space.contains(action)
    assert [(part.shape, part.dtype) for part in state] == [((1, 1, 32), np.float32)] * 2
    actions, state = pong.predict(pictures(5, shape))
    assert (actions.shape, actions.dtype) == ((5,), np.int64)
    assert [part.shape for part in state] == [(1, 5, 32)] * 2


def test_predict_sees_the_same_in_both_layouts(pong):
    picture = pictures(1, (64, 64, 3))[0]
    one, other = (pong.predict(each, deterministic=True) for each in (picture, picture.transpose(2, 0, 1)))
    assert one[0] == other[0]
    np.testing.assert_array_equal(one[1], other[1])


def test_predict_remembers_and_forgets_with_the_episode(pong):
    frames = pictures(2, (64, 64, 3))
    _, first = pong.predict(frames)
    _, second = pong.predict(frames, first)
    assert not np.allclose(first[0], second[0])
    _, mixed = pong.predict(frames, first, episode_start=np.array([False, True]))
    np.testing.assert_allclose(mixed[0][:, 0], second[0][:, 0], atol=1e-6)
    np.testing.assert_allclose(mixed[0][:, 1], first[0][:, 1], atol=1e-6)


def test_predict_can_be_deterministic(pong):
    frames = pictures(8, (64, 64, 3))
    first, _ = pong.predict(frames, deterministic=True)
    for _ in range(3):
        np.testing.assert_array_equal(pong.predict(frames, deterministic=True)[0], first)
    assert len({tuple(pong.predict(frames)[0]) for _ in range(5)}) > 1


def test_predict_draws_at_the_temperature_of_evaluations():
    agent = new_agent(eval_temperature=0.0)
    frames = pictures(16, (64, 64, 3))
    np.testing.assert_array_equal(agent.predict(frames)[0], agent.predict(frames, deterministic=True)[0])


def test_predict_leaves_the_global_random_stream_alone(pong):
    before = torch.get_rng_state()
    pong.predict(pictures(3, (64, 64, 3)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "state", [(np.zeros((1, 2, 32), np.float32),) * 2, (np.zeros((1, 1, 32), np.float32),), (np.zeros(32),) * 2]
)
def test_predict_refuses_a_state_of_another_shape(pong, state):
    with pytest.raises(UsageError, match="state is"):
        pong.predict(pictures(1, (64, 64, 3))[0], state)


@pytest.mark.parametrize("observation", [np.zeros(4, np.float32), np.zeros((64, 64, 3), np.float32)])
def test_predict_refuses_what_is_no_image(pong, observation):
    with pytest.raises(UsageError, match="observation"):
        pong.predict(observation)


def test_evaluate_policy_plays_whole_games_with_it(pong):
    mean, _ = evaluate_policy(pong, short_pong(), n_eval_episodes=1, deterministic=False)
    assert np.isfinite(mean)
    rewards, lengths = evaluate_policy(new_agent(), Monitor(Corridor()), 3, return_episode_rewards=True)
    assert (rewards, lengths) == ([28] * 3, [GAME_LENGTH] * 3)


def test_the_bare_policy_predicts_for_whoever_asks_it(pong):
    action, _ = pong.policy.predict(pictures(1, (64, 64, 3))[0])
    assert pong.action_space.contains(int(action))


def test_evaluate_plays_the_agents_own_game():
    agent = new_agent("MiniGrid-Empty-5x5-v0")
    scores = agent.evaluate(2, seed=3)
    assert [score.seed for score in scores] == [3, 4]
    assert scores == agent.evaluate(2, seed=3)


def test_evaluate_does_not_guess_what_game_an_object_was():
    with pytest.raises(UsageError, match="env_id=None"):
        new_agent().evaluate(1)


def test_evaluate_refuses_a_game_of_other_actions(pong):
    with pytest.raises(UsageError, match=r"'ALE/Breakout-v5' has actions Discrete\(4\)"):
        pong.evaluate(1, env_id="ALE/Breakout-v5")


def test_evaluate_names_what_is_out_of_range(pong):
    with pytest.raises(UsageError, match="episodes: 0"):
        pong.evaluate(0)


# ------------------------------------------------------------------ keeping


def test_a_saved_agent_is_the_same_agent(pong, tmp_path):
    pong.save(tmp_path / "pong")
    loaded = IRISAgent.load(tmp_path / "pong.zip", device="cpu")
    assert_same_weights(pong, loaded)
    assert loaded.config == pong.config
    assert loaded.num_timesteps == 60
    frames = pictures(6, (64, 64, 3))
    for deterministic in (True, False):
        mine, theirs = (agent.predict(frames, deterministic=deterministic) for agent in (pong, loaded))
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


def test_a_saved_file_holds_no_code(pong, tmp_path):
    pong.save(tmp_path / "new" / "pong.zip")
    with zipfile.ZipFile(tmp_path / "new" / "pong.zip") as archive:
        tensors = [f"{group}.safetensors" for group in ("start_frames", "training", "weights")]
        assert sorted(archive.namelist()) == sorted(["state.json", *tensors])
        assert json.loads(archive.read("state.json"))["env"] == "ALE/Pong-v5"


def test_optimizers_and_random_streams_are_kept(walker, tmp_path):
    walker.save(tmp_path / "agent.zip")
    loaded = IRISAgent.load(tmp_path / "agent.zip", env=Corridor(), device="cpu")
    for mine, theirs in zip(walker.trainer.learners, loaded.trainer.learners, strict=True):
        assert mine.updates == theirs.updates > 0
        before, after = mine.optimizer.state_dict(), theirs.optimizer.state_dict()
        assert before["param_groups"] == after["param_groups"]
        torch.testing.assert_close(before["state"], after["state"], rtol=0, atol=0)
    assert walker.streams.sampling.bit_generator.state == loaded.streams.sampling.bit_generator.state
    torch.testing.assert_close(loaded.streams.state_dict()["collecting"], walker.streams.state_dict()["collecting"])
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80
    assert loaded.trainer.learners[0].updates == walker.trainer.learners[0].updates + 3


def test_a_loaded_agent_goes_on_with_its_random_streams_or_begins_them_anew(tmp_path):
    saved = new_agent()
    saved.predict(pictures(5))  # its stream stands elsewhere than at its beginning
    saved.save(tmp_path / "agent.zip")

    def actions(**seed) -> list[int]:
        agent = IRISAgent.load(tmp_path / "agent.zip", device="cpu", **seed)
        return agent.predict(pictures(60))[0].tolist()

    assert actions() == actions()
    assert actions(seed=1) == actions(seed=1) != actions(seed=2)
    assert actions() not in (actions(seed=0), actions(seed=1))


def test_a_seed_that_is_set_later_counts_for_every_stream():
    agent = new_agent()

    def drawn() -> list[int]:
        agent.set_random_seed(5)
        streams = [agent.streams.collecting, agent.streams.imagining, agent.policy.generator]
        numbers = [int(torch.randint(2**31, (1,), generator=stream)) for stream in streams]
        return [*numbers, int(agent.trainer.generator.integers(2**31)), *agent.predict(pictures(30))[0].tolist()]

    first = drawn()
    agent.predict(pictures(5))
    assert drawn() == first
    stands = agent.policy.generator.get_state()
    agent.set_random_seed(None)
    assert torch.equal(agent.policy.generator.get_state(), stands)


def test_a_seed_leaves_cudnn_as_it_is():
    agent, cudnn = new_agent(), torch.backends.cudnn
    agent.device = torch.device("cuda")
    before = cudnn.deterministic, cudnn.benchmark
    agent.set_random_seed(5)
    assert (cudnn.deterministic, cudnn.benchmark) == before != (True, False)


def test_another_environment_than_the_agents_is_named(tmp_path):
    agent = new_agent(run_dir=tmp_path / "run")
    agent.save_checkpoint()
    more = Corridor()
    more.action_space = spaces.Discrete(5)
    for read in (IRISAgent.load, IRISAgent.resume):
        with pytest.raises(UsageError, match="env='Corridor' has 5 actions, the agent was made for 3"):
            read(tmp_path / "run", more, device="cpu")


def test_a_run_goes_on_in_as_many_environments_as_it_was_begun_in(tmp_path):
    """Its replay knows no others; an agent without it may learn in any number."""
    three, two = (DummyVecEnv([Corridor] * rows) for rows in (3, 2))
    quiet_learn(new_agent(three, run_dir=tmp_path / "run"), 30)
    with pytest.raises(UsageError, match="is 2 at once, the run was begun with 3; give as many"):
        IRISAgent.resume(tmp_path / "run", two, device="cpu")
    quiet_learn(IRISAgent.load(tmp_path / "run", two, device="cpu"), 10)
    assert IRISAgent.resume(tmp_path / "run", three, device="cpu").n_envs == 3


def test_a_loaded_agent_imitates_from_its_first_step_on(tmp_path, monkeypatch):
    """Its random steps are in the replay of the one that was saved."""
    asked = []
    sample_best = Replay.sample_best
    monkeypatch.setattr(
        Replay, "sample_best", lambda *args, **given: asked.append(given["since"]) or sample_best(*args, **given)
    )
    agent = new_agent(imitation_share=0.5, actor_critic_batch_size=2, random_steps=30).learn(60)
    assert set(asked) == {30}
    agent.save(tmp_path / "agent.zip")
    asked.clear()
    IRISAgent.load(tmp_path / "agent.zip", env=Corridor(), device="cpu").learn(20)
    assert set(asked) == {0}


def test_without_an_environment_a_loaded_agent_does_not_learn(pong, tmp_path):
    pong.save(tmp_path / "pong.zip")
    loaded = IRISAgent.load(tmp_path / "pong.zip", device="cpu")
    assert loaded.get_env() is None
    with pytest.raises(UsageError, match="env=None"):
        loaded.learn(20)
    loaded.set_env(make_env("ALE/Pong-v5"))
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 65


@pytest.mark.parametrize(
    ("env", "rows"),
    [
        (lambda: "MiniGrid-Empty-5x5-v0", 1),
        (lambda: make_env("MiniGrid-Empty-5x5-v0"), 1),
        (lambda: DummyVecEnv([lambda: make_env("MiniGrid-Empty-6x6-v0")] * 3), 3),
    ],
    ids=["id", "environment", "three rows"],
)
def test_a_loaded_agent_takes_any_environment_of_its_actions(env, rows, tmp_path):
    new_agent("MiniGrid-Empty-5x5-v0").save(tmp_path / "agent.zip")
    loaded = IRISAgent.load(tmp_path / "agent.zip", env(), device="cpu")
    assert loaded.n_envs == loaded.get_env().num_envs == rows
    quiet_learn(loaded, 6)
    assert loaded.num_timesteps == 6


def test_parameters_travel_through_get_and_set(pong, tmp_path):
    fresh = new_agent("ALE/Pong-v5", seed=9)
    fresh.set_parameters(pong.get_parameters())
    assert_same_weights(pong, fresh)
    pong.save(tmp_path / "pong.zip")
    other = new_agent("ALE/Pong-v5", seed=9)
    other.set_parameters(tmp_path / "pong.zip")
    assert_same_weights(pong, other)


@pytest.mark.parametrize(
    ("codebook", "load"),
    [
        ("ema", lambda agent, other: agent.set_parameters(other.get_parameters())),
        ("gradient", lambda agent, other: agent.policy.load_from_vector(other.policy.parameters_to_vector())),
    ],
    ids=["all there are", "a vector, without buffers"],
)
def test_parameters_that_are_set_amid_a_collection_are_acted_with(codebook, load):
    agent, other = new_agent(codebook=codebook), new_agent(codebook=codebook, seed=1)
    quiet_learn(agent, 20, Recorder(stop_at=10))
    load(agent, other)
    frames = torch.from_numpy(pictures(4, (3, 64, 64)))
    acting = agent.trainer.collector.policy
    ours, theirs = (policy.logits(frames, policy.initial_state(4))[0] for policy in (acting, other.policy.acting))
    assert acting.frozen is not None
    torch.testing.assert_close(ours, theirs)


def test_all_parameters_are_a_vector_and_a_vector_is_all_parameters():
    agent, other = new_agent(seed=1), new_agent(seed=2)
    other.policy.load_from_vector(agent.policy.parameters_to_vector())
    for mine, theirs in zip(agent.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_was_kept_of_the_tokenizer_is_dropped_when_a_vector_is_loaded():
    agent = quiet_learn(new_agent(), 60)
    cache, fresh = (FrameCache(agent.models.tokenizer) for _ in range(2))
    segment = agent.replay.sample_segments(4, 4, generator=np.random.default_rng(0), align="start")
    before = cache.tokens(segment)
    agent.policy.load_from_vector(new_agent(seed=1).policy.parameters_to_vector())
    assert torch.equal(cache.tokens(segment)[segment.mask], fresh.tokens(segment)[segment.mask])
    assert not torch.equal(cache.tokens(segment)[segment.mask], before[segment.mask])


@pytest.mark.parametrize("vector", [np.zeros(3, np.float32), np.array("many")])
def test_a_vector_of_another_size_or_kind_is_refused(vector):
    with pytest.raises(UsageError, match=r"vector is .*; give real numbers \(\d+,\)"):
        new_agent().policy.load_from_vector(vector)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", np.longdouble, np.uint16])
def test_a_vector_may_be_read_only_and_of_any_real_numbers(dtype):
    policy = new_agent().policy
    vector = np.arange(policy.parameters_to_vector().size).clip(0, 9).astype(dtype)
    vector.setflags(write=False)
    policy.load_from_vector(vector)
    assert np.array_equal(policy.parameters_to_vector(), vector.astype(np.float32))


@pytest.mark.parametrize("number", [np.nan, 1e300])
def test_a_vector_with_numbers_that_are_not_finite_is_refused_whole(number):
    agent = new_agent()
    before = weights(agent)
    vector = agent.policy.parameters_to_vector().astype(np.float64) + 1
    vector[-1] = number
    with pytest.raises(UsageError, match="vector has numbers that are not finite"):
        agent.policy.load_from_vector(vector)
    assert all(torch.equal(before[name], value) for name, value in weights(agent).items())


def test_set_parameters_refuses_those_of_another_agent(tmp_path):
    new_agent(lstm_dim=16).save(tmp_path / "narrow.zip")
    agent = new_agent()
    before = weights(agent)
    with pytest.raises(UsageError, match="actor_critic.* has shape"):
        agent.set_parameters(tmp_path / "narrow.zip")
    assert all(torch.equal(before[name], value) for name, value in weights(agent).items())


def test_the_config_is_copied():
    config = IRISConfig.tiny()
    agent = IRISAgent("MiniGrid-Empty-5x5-v0", config, seed=0, device="cpu")
    config.eval_temperature = 3.0
    assert agent.config.eval_temperature == 0.5
    assert config.env == "ALE/Pong-v5", "the agent's choice of an environment is not the caller's"


# ------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run of three epochs. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    new_agent("MiniGrid-Empty-5x5-v0", run_dir=folder).learn(60).logger.close()
    return folder


def test_a_run_leaves_its_folder(run):
    names = [".lock", "checkpoints", "config.json", "logs", "media", "replay", "run.json"]
    assert sorted(path.name for path in run.iterdir()) == names
    assert IRISConfig.load(run / "config.json") == IRISConfig.tiny(env="MiniGrid-Empty-5x5-v0")
    assert all(path.name.isdigit() and len(path.name) == 10 for path in (run / "checkpoints").iterdir())
    assert {path.name for path in (run / "media").iterdir()} >= {
        "dream_0000060.png",
        "dream_0000060.gif",
        "reconstructions_0000060.png",
    }
    rows = csv_rows(run / "logs" / "progress.csv")
    assert [row["time/total_timesteps"] for row in rows] == ["20", "40", "60"]
    assert len(scalars(run / "logs", "autoencoder/reconstruction_loss")) == 3


def test_a_run_folder_is_loaded_and_only_read(run):
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    loaded = IRISAgent.load(run, device="cpu")
    assert loaded.num_timesteps == 60
    assert loaded.evaluate(1)
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_resuming_goes_on_in_the_folder(tmp_path):
    folder = tmp_path / "run"
    first = quiet_learn(new_agent("MiniGrid-Empty-5x5-v0", run_dir=folder), 40)
    first.logger.close()
    resumed = IRISAgent.resume(folder, device="cpu")
    assert_same_weights(first, resumed)
    assert (resumed.num_timesteps, len(resumed.replay)) == (40, 40)
    resumed.learn(40, reset_num_timesteps=False)
    resumed.logger.close()
    assert len(resumed.replay) == 80
    rows = csv_rows(folder / "logs" / "progress.csv")
    assert [row["time/total_timesteps"] for row in rows] == ["20", "40", "60", "80"]
    assert [row["time/epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert IRISAgent.load(folder, device="cpu").num_timesteps == 80


def test_a_run_killed_between_two_updates_and_resumed_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Were an optimizer, a random stream, the place in the schedule or what is novel or best not kept, the weights
    would show it."""

    def some_counts(novelty: Novelty, tokens: torch.Tensor) -> torch.Tensor:
        """Of all that was counted, since what so small a model dreams was never met."""
        novelty._count()
        return 1 + (hashed(tokens) + novelty._hashes.sum()) % 7 * novelty._counts.sum()

    monkeypatch.setattr(Novelty, "counts", some_counts)
    env = "MinAtar/Breakout-v1"  # random games are short, and some better than others
    settings = dict(actor_critic_batch_size=8, hard_examples=0.5, transformer_optimizer="muon")
    settings |= dict(actor_critic_passes=2, imitation_share=0.25)
    lived = []
    stretches = Imitation.stretches
    monkeypatch.setattr(Imitation, "stretches", lambda self: lived.append(stretches(self)) or lived[-1])
    # Not all dreams of eight end at once.
    straight, plain = new_agent(env, novelty_weight=1.0, **settings).learn(60), new_agent(env, **settings).learn(60)
    assert not torch.equal(straight.models.actor_critic.actor.weight, plain.models.actor_critic.actor.weight)
    assert any(lived), "something was imitated"
    for component, phase in (("world_model", 2), ("actor_critic", 3)):
        folder = tmp_path / component
        killed = new_agent(env, novelty_weight=1.0, **settings, run_dir=folder)
        for event in killed.learn_events(60):
            if isinstance(event, UpdateDone) and event.component == component and killed.trainer.position.epoch == 3:
                break
        killed.save_checkpoint()
        torch.rand(5)  # another process has another global stream
        resumed = IRISAgent.resume(folder, device="cpu")
        assert (resumed.trainer.position.phase, resumed.trainer.position.done) == (phase, 1)
        events = resumed.learn_events(0, reset_num_timesteps=False)
        [epoch] = [event.metrics for event in events if isinstance(event, EpochEnded)]
        assert resumed.num_timesteps == 60
        assert_same_weights(resumed, straight)
        assert {"autoencoder/loss", "world_model/loss", "actor_critic/loss"} <= epoch.keys()


def test_of_two_agents_in_a_run_folder_the_one_that_was_resumed_goes_on(tmp_path, monkeypatch):
    older = quiet_learn(new_agent("MiniGrid-Empty-5x5-v0", run_dir=tmp_path / "run"), 20)
    older.logger.close()
    newer = quiet_learn(IRISAgent.resume(tmp_path / "run", device="cpu"), 20, reset_num_timesteps=False)
    for go_on in (older.save_checkpoint, lambda: older.learn(20, reset_num_timesteps=False)):
        with pytest.raises(UsageError, match="run' belongs to an agent that this process has resumed since"):
            go_on()
    older.save(tmp_path / "older.zip")  # which is no file of the run
    with pytest.raises(UsageError, match="episodes"), monkeypatch.context() as patch:
        patch.setattr(IRISAgent, "_restore", lambda self, snapshot: (_ for _ in ()).throw(UsageError("episodes")))
        IRISAgent.resume(tmp_path / "run", device="cpu")
    newer.save_checkpoint()
    newer.logger.close()
    assert IRISAgent.load(tmp_path / "run", device="cpu").num_timesteps == 40


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path):
    agent = quiet_learn(new_agent("MiniGrid-Empty-5x5-v0", run_dir=tmp_path / "run"), 40)
    events = agent.learn_events(40, reset_num_timesteps=False)
    for _ in range(10):
        next(events)
    del events  # killed here
    assert len(agent.replay) > 40
    resumed = IRISAgent.resume(tmp_path / "run", device="cpu")
    assert (resumed.num_timesteps, len(resumed.replay)) == (40, 40)
    agent.logger.close()


def last_metrics(events) -> dict[str, float]:
    return [event.metrics for event in events if isinstance(event, EpochEnded)][-1]


@pytest.mark.parametrize("env", ["ALE/Breakout-v5", "corridor"])
def test_a_run_left_in_the_middle_of_collecting_goes_on_in_its_game(env, tmp_path):
    straight = new_agent(env)
    logged = last_metrics(straight.learn_events(60))
    left = new_agent(env, run_dir=tmp_path / "run")
    for event in left.learn_events(60):
        if isinstance(event, StepTaken) and left.num_timesteps == 57:
            break
    left.save_checkpoint()
    left.logger.close()
    resumed = IRISAgent.resume(tmp_path / "run", Corridor() if env == "corridor" else None, device="cpu")
    assert np.array_equal(resumed._last_obs, left._last_obs)
    assert [info["r"] for info in resumed.ep_info_buffer] == [info["r"] for info in left.ep_info_buffer]
    assert last_metrics(resumed.learn_events(3, reset_num_timesteps=False)) == logged
    assert "rollout/real_return" in logged
    resumed.logger.close()
    assert_same_weights(resumed, straight)
    mine, theirs = resumed.replay.transitions(0, 60), straight.replay.transitions(0, 60)
    assert all(map(np.array_equal, mine, theirs))
    assert [len(episode) for episode in resumed.replay.episodes] == [len(e) for e in straight.replay.episodes]
    memory, expected = (agent.trainer.collector.state_dict()[1] for agent in (resumed, straight))
    assert all(torch.equal(memory[name], expected[name]) for name in expected), "of the LSTM, not burnt in anew"


class Tenths(VecEnvWrapper):
    """Rewards that float32 does not hold, and in float64, as those of `SubprocVecEnv` are."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards.astype(np.float64) / 10, dones, infos


def test_rewards_in_double_precision_do_not_hinder_resuming(tmp_path):
    def corridor() -> Tenths:
        return Tenths(DummyVecEnv([lambda: Monitor(Corridor())]))

    left = quiet_learn(new_agent(corridor(), run_dir=tmp_path / "run"), 10)
    left.logger.close()
    resumed = IRISAgent.resume(tmp_path / "run", corridor(), device="cpu")
    assert np.array_equal(resumed._last_obs, left._last_obs)


def test_an_environment_that_cannot_be_brought_back_is_reset_with_a_warning(tmp_path):
    quiet_learn(new_agent(run_dir=tmp_path / "run"), 10).logger.close()
    with pytest.warns(UserWarning, match="the environment cannot be brought back"):
        resumed = IRISAgent.resume(tmp_path / "run", Corridor((40, 56, 3)), device="cpu")
    quiet_learn(resumed, 20, reset_num_timesteps=False).logger.close()
    assert [len(episode) for episode in resumed.replay.episodes][:3] == [7, 3, 7]
    assert resumed.replay.episodes[1].truncated


def test_a_run_whose_losses_are_no_numbers_stops_with_its_batch_and_its_checkpoints_as_they_were(tmp_path, monkeypatch):
    agent = quiet_learn(new_agent(run_dir=tmp_path / "run", max_bad_updates=2), 20)
    before = weights(agent)
    monkeypatch.setattr(agent.models.tokenizer, "pixel_error", lambda difference: difference * float("nan"))
    with pytest.raises(RunError, match="the autoencoder diverged: .* at its update 5, after 40 environment") as raised:
        quiet_learn(agent, 20, reset_num_timesteps=False)
    agent.logger.close()
    [path] = (tmp_path / "run" / "bad_batches").iterdir()
    assert str(path) in str(raised.value)
    assert load_file(path)["frames"].shape == (8, 1, 3, 64, 64)
    after, saved = weights(agent), weights(IRISAgent.load(tmp_path / "run", device="cpu"))
    assert all(torch.equal(before[name], after[name]) and torch.equal(before[name], saved[name]) for name in before)


def test_a_run_in_an_object_needs_it_again(tmp_path):
    quiet_learn(new_agent(run_dir=tmp_path / "run"), 20).logger.close()
    with pytest.raises(UsageError, match="env=None"):
        IRISAgent.resume(tmp_path / "run", device="cpu")
    resumed = quiet_learn(IRISAgent.resume(tmp_path / "run", Corridor(), device="cpu"), 20, reset_num_timesteps=False)
    resumed.logger.close()
    assert resumed.num_timesteps == 40


def test_checkpoints_are_kept_as_the_config_says(tmp_path):
    agent = new_agent(run_dir=tmp_path / "run", checkpoint_interval=1, keep_checkpoints=2).learn(60)
    agent.logger.close()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(env="ALE/Pongg-v5"), "ALE/Pong-v5"),
        (dict(env="no_such_module:Game-v0"), "no_such_module"),
        (dict(env="CartPole-v1"), "gymnasium.wrappers.AddRenderObservation"),
        (dict(env="Pendulum-v1"), "Discrete"),
        (dict(device="cuda:99"), "device='cuda:99' is not there"),
        (dict(device="abacus"), "device='abacus' is not there"),
        (dict(device="meta"), "device='meta' is not there"),
        (dict(seed=-1), "seed=-1"),
        (dict(seed=2**32), "seed=4294967296"),
        (dict(policy="MlpPolicy"), "policy='MlpPolicy'"),
        (dict(env=Corridor), "neither an id nor a gymnasium.Env"),
        (dict(config=Corridor()), "write IRISAgent(env, IRISConfig.small())"),
        (dict(config="tiny"), "config='tiny' is no IRISConfig"),
        (dict(config=IRISConfig.tiny(transformer_heads=3)), "transformer_heads=3"),
        (dict(config=IRISConfig.tiny(vocab_size="many")), "vocab_size='many'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values()))[:30],
)
def test_bad_input_is_refused_in_one_line_and_creates_nothing(arguments, words, tmp_path):
    arguments = {"env": "ALE/Pong-v5", "config": IRISConfig.tiny(), "device": "cpu"} | arguments
    with pytest.raises(UsageError) as caught:
        IRISAgent(**arguments, run_dir=tmp_path / "run")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [lambda: gym.make("CartPole-v1"), lambda: gym.make("Pendulum-v1")])
def test_environment_objects_that_cannot_be_played_are_refused(make, tmp_path):
    with pytest.raises(UsageError, match="v1' has the"):
        IRISAgent(make(), IRISConfig.tiny(), device="cpu", run_dir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_taken_run_folder_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="holds a run already"):
        new_agent(run_dir=run)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="in use by something else"):
        new_agent(run_dir=tmp_path)


@pytest.mark.parametrize("open_agent", [IRISAgent.load, IRISAgent.resume])
def test_what_is_no_run_is_refused(open_agent, tmp_path):
    with pytest.raises(UsageError, match="no run folder"):
        open_agent(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no complete checkpoint"):
        open_agent(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_load_refuses_files_that_are_no_agents(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        IRISAgent.load(tmp_path / "nothing")
    (tmp_path / "noise.zip").write_bytes(b"noise")
    with pytest.raises(UsageError, match="no saved agent"):
        IRISAgent.load(tmp_path / "noise.zip")


def test_load_refuses_a_config_it_does_not_know(tmp_path):
    new_agent().save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    state = json.loads(files["state.json"])
    state["config"]["from_the_future"] = 1
    with zipfile.ZipFile(tmp_path / "newer.zip", "w") as archive:
        for name, content in (files | {"state.json": json.dumps(state).encode()}).items():
            archive.writestr(name, content)
    with pytest.raises(UsageError, match="from_the_future"):
        IRISAgent.load(tmp_path / "newer.zip", device="cpu")


def test_a_run_closes_its_logs_by_itself(tmp_path):
    agent = quiet_learn(new_agent(run_dir=tmp_path / "run"), 20)
    output = agent.logger.output_formats[0]
    del agent
    gc.collect()
    assert output.file.closed

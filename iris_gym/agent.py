"""`IRISAgent`: IRIS with the face of a Stable-Baselines3 algorithm."""

import os
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from iris_gym.assembly import (
    build_acting,
    build_collector,
    build_dream,
    build_models,
    build_replay,
    build_trainer,
    choose_device,
    draw_start_frames,
    replay_starts,
    warn_of_untrained,
)
from iris_gym.config import IRISConfig, preset
from iris_gym.data.replay import Replay
from iris_gym.dream import DreamVectorEnv
from iris_gym.envs import CheckedObservations, check_spaces, frames_per_second, make_vec_env
from iris_gym.errors import RunError, UsageError, one_line
from iris_gym.evaluation.evaluate import check_temperature, evaluate
from iris_gym.evaluation.pictures import RunPictures, gif, run_pictures, save_run_pictures
from iris_gym.evaluation.players import PolicyPlayer
from iris_gym.evaluation.rows import EpisodeScore, OpenEnv, games
from iris_gym.evaluation.scores import read_scores, steps_of
from iris_gym.hub import HubAgent
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.policy import IRISPolicy
from iris_gym.process import memory_in_use
from iris_gym.published import PublishedAgent
from iris_gym.stored import check_stored
from iris_gym.training import checkpoint
from iris_gym.training.checkpoint import Snapshot
from iris_gym.training.collector import environment_faults
from iris_gym.training.learner import Diverged
from iris_gym.training.logs import close_logger, log_marks, rewind_logs, run_logger
from iris_gym.training.media_log import record_pictures, shows_pictures
from iris_gym.training.randomness import RandomStreams, checked_seed, drawn_seed
from iris_gym.training.rates import Rates
from iris_gym.training.run_folder import RunFolder, read_snapshot, saved_file
from iris_gym.training.snapshots import collection_state, restore_collection, restore_training, training_state
from iris_gym.training.stored_state import SETTINGS, check_entries
from iris_gym.training.trainer import (
    CollectionEnded,
    CollectionStarted,
    EpochEnded,
    Event,
    StepTaken,
    UpdateDone,
    check_total_timesteps,
)


class IRISAgent(HubAgent, PublishedAgent, BaseAlgorithm):
    """IRIS: a policy learned inside a world model that is learned from little experience (Micheli et al. 2023).

    Args:
        env: an environment id, a `gymnasium.Env` or a `VecEnv` with uint8 image observations of any size and Discrete
            actions. An id is built under its own protocol (Atari 100k for games of the ALE). None: `config.env`.
        config: hyperparameters; checked and copied. None: the preset `auto`, the default on a GPU, small on a CPU.
        policy: the name of the one policy there is; accepted because other Stable-Baselines3 algorithms ask for one.
        tensorboard_log: folder for TensorBoard logs. Unused with `run_dir`, which has its own.
        verbose: 0 is silent, 1 prints a table each logged epoch.
        seed: of every random stream, torch's global one and the environment. None: from entropy; with `run_dir` it is
            drawn and kept, so that the run can be resumed.
        device: auto, cpu, cuda or cuda:N.
        run_dir: a new folder for checkpoints, replay, logs and pictures. None: nothing is left on disk.

    Raises:
        UsageError: a value cannot be used; the message names it and what would do. Nothing was created.
    """

    policy: IRISPolicy

    def __init__(
        self,
        env: GymEnv | str | None = None,
        config: IRISConfig | None = None,
        *,
        policy: str = "IRISPolicy",
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        run_dir: str | Path | None = None,
        _snapshot: Snapshot | None = None,
        _run: RunFolder | None = None,
        _settings: Mapping[str, Any] | None = None,
    ) -> None:
        if policy != "IRISPolicy":
            raise UsageError(f"policy={policy!r} is unknown; IRIS has the one policy 'IRISPolicy'")
        seed = checked_seed(seed)
        chosen_device = choose_device(device)
        if not isinstance(config, IRISConfig | None):
            raise UsageError(f"config={config!r} is no IRISConfig; write IRISAgent(env, IRISConfig.small())")
        self.config = (config or preset("auto", chosen_device.type)).replace()
        if env is not None:
            self.config.env = _name_of(env)
        self.config.validate()
        if run_dir is not None:
            RunFolder(Path(run_dir)).check_free()
            seed = drawn_seed() if seed is None else seed
        if env is None and _snapshot is None:
            env = self.config.env
        self.env_id = env if isinstance(env, str) else None
        super().__init__(
            IRISPolicy,
            self._vec_env(env, verbose),
            learning_rate=self.config.actor_critic_learning_rate,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=chosen_device,
            support_multi_env=True,
        )
        if self.env is None and _snapshot is not None:
            self.env_id = _snapshot.state["env"]
            self._take_spaces(_snapshot)
        elif _snapshot is not None:
            self._check_env(_snapshot, resumed=_run is not None)
        self.log_outputs: list[KVWriter] = []
        """What the logger of the run folder writes to besides TensorBoard and `progress.csv`."""
        self._rates = Rates()
        self._pictures: tuple[int, RunPictures | None] = -1, None
        self.run = _run if run_dir is None else self._new_run(Path(run_dir), _settings or {})
        self.scores_file = self.run.scores_file if self.run else None
        """Where an evaluation of the agent is looked for, to be told on its model card."""
        if self.run is not None:
            self._run_lock = self.run.lock()
            if _snapshot is None:
                self.run.clear()
        self.replay = self._open_replay(_snapshot if _run else None)
        self._log_marks = _snapshot.state.get("logs") if _snapshot and _run else None
        self.start_frames = _snapshot.start_frames if _snapshot else None
        self._setup_model()
        if _snapshot is not None:
            self._restore(_snapshot)
        if self.run is not None:
            self._run_lock.holder = weakref.ref(self)  # one that could not be made takes no run from another

    # ---------------------------------------------------------------- building

    def _vec_env(self, env: GymEnv | str | None, verbose: int = 0) -> VecEnv | None:
        """Whatever the user has for an environment, as a `VecEnv` of images."""
        if env is None:
            return None
        if isinstance(env, str):
            config = self.config
            env = make_vec_env(env, 1, atari_100k=config.atari_100k, preprocessing=config.preprocessing)
        else:
            check_spaces(env.observation_space, env.action_space, _name_of(env))
        return self._wrap_env(env, verbose)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As in Stable-Baselines3, but images keep their layout: `predict` takes both, and environments for
        `EvalCallback` then are of the same type as the one for training."""
        if isinstance(env, VecEnv):
            return env
        checked = CheckedObservations(env)
        monitored = Monitor(checked) if monitor_wrapper and not is_wrapped(env, Monitor) else checked
        return DummyVecEnv([lambda: monitored])

    def _new_run(self, path: Path, settings: Mapping[str, Any]) -> RunFolder:
        run = RunFolder(path)
        run.create(self.config.to_dict(), seed=self.seed, env=self.env_id, **settings)
        return run

    def _open_replay(self, snapshot: Snapshot | None) -> Replay:
        folder = self.run.replay if self.run else None
        if snapshot is None:
            return build_replay(self.config, folder, device=self.device)
        rows = snapshot.state["replay_rows"]
        standing = (snapshot.state.get("collection") or {}).get("open_environments", ())
        replay = build_replay(self.config, folder, rows=rows, open_environments=standing, device=self.device)
        replay.check_steps(snapshot.state["num_actions"], snapshot.state["n_envs"])
        return replay

    def _check_env(self, snapshot: Snapshot, *, resumed: bool) -> None:
        """Raise `UsageError` for an environment that does not fit the agent, or the replay of a run to be resumed."""
        name, begun_with = self.config.env, snapshot.state["n_envs"]
        _check_actions(name, self.action_space, snapshot.state["num_actions"])
        if resumed and self.n_envs != begun_with:
            raise UsageError(
                f"env={name!r} is {self.n_envs} at once, the run was begun with {begun_with}; give as many"
            )

    def _take_spaces(self, snapshot: Snapshot) -> None:
        self.observation_space = spaces.Box(0, 255, tuple(snapshot.state["observation_shape"]), np.uint8)
        self.action_space = spaces.Discrete(snapshot.state["num_actions"])
        self.n_envs = snapshot.state["n_envs"]

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed every random stream, global ones and the environment's included; None leaves all as they are.

        On a GPU cuDNN stays as it is, where Stable-Baselines3 would have it compute deterministically, and slower, in
        the whole process: other operations of an update add up in any order there.
        """
        cudnn = torch.backends.cudnn
        before = cudnn.deterministic, cudnn.benchmark
        super().set_random_seed(seed)
        cudnn.deterministic, cudnn.benchmark = before
        if seed is not None:
            self.streams.seed(seed)

    def _setup_model(self) -> None:
        self.streams = RandomStreams(self.seed, self.device)
        self.set_random_seed(self.seed)
        action_space = cast(spaces.Discrete, self.action_space)
        self.models = build_models(self.config, int(action_space.n), self.device)
        self.policy = IRISPolicy(  # pyright: ignore[reportIncompatibleVariableOverride]
            self.observation_space,
            action_space,
            self.models,
            temperature=self.config.eval_temperature,
            generator=self.streams.predicting,
            on_load=self._refresh_collector,
        )
        self.trainer = build_trainer(
            self.config,
            self.models,
            self.replay,
            self.streams,
            env=self.env,
            evaluate=self._evaluation_metrics if self.env_id else None,
        )

    def _adopt(self, env: VecEnv, name: str) -> None:
        """Be an agent of images and rows as the first environment has them, as `load` with it would have made one."""
        _check_actions(name, env.action_space, int(cast(spaces.Discrete, self.action_space).n))
        self.observation_space, self.action_space, self.n_envs = env.observation_space, env.action_space, env.num_envs
        self.policy.observation_space, self.policy.action_space = env.observation_space, env.action_space

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Exchange the environment for one with the same spaces and number of rows; see `BaseAlgorithm.set_env`.

        An agent that was loaded without one takes any with as many actions.

        Not in the middle of `learn`, as with every algorithm of Stable-Baselines3: the new one has to be reset first.
        """
        if env is None:
            raise UsageError("env=None is no environment; give one, or an id")
        chosen, name = cast(VecEnv, self._vec_env(env, self.verbose)), _name_of(env)
        if self.env is None:
            self._adopt(chosen, name)
        super().set_env(chosen, force_reset)
        assert self.env is not None
        self.env_id = env if isinstance(env, str) else None
        self.config.env = name
        self.trainer.evaluate = self._evaluation_metrics if self.env_id else None
        self.trainer.collector = build_collector(
            self.config, build_acting(self.config, self.models), self.replay, self.streams, self.env
        )
        self.trainer.collector.resets = None
        if self._last_obs is not None:
            self.trainer.collector.reset(cast(np.ndarray, self._last_obs))

    # ---------------------------------------------------------------- learning

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "IRIS",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> "IRISAgent":
        """Collect `total_timesteps` environment steps, training as the schedule of the config says; returns self.

        When `config.max_env_steps` have been collected in all, training goes on without collecting to
        `config.total_epochs`. `log_interval` counts epochs. A callback that returns False ends at that step; callbacks
        are asked after environment steps, so no more where nothing is collected.

        The epoch in which collecting stops ends with all of its updates. Who trains in several calls should let each
        collect whole epochs, `config.env_steps_per_epoch` a piece, or it trains more often than the schedule says.
        """
        check_total_timesteps(total_timesteps)
        for _ in self.learn_events(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        ):
            pass
        return self

    def learn_events(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "IRIS",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Iterator[Event]:
        """`learn` as a generator of the trainer's events, for whoever wants to watch it or to stop between two.

        Left early it writes no checkpoint into the run folder; `save_checkpoint` does.
        With `total_timesteps` 0 it only ends an epoch that was stopped in its middle.
        """
        check_total_timesteps(total_timesteps, least=0)
        if self.env is None:
            raise UsageError("env=None cannot be learned from; load with env=…, or call set_env first")
        self._check_holder()
        self._check_replay()
        assert self.trainer.collector is not None
        if self.trainer.collector.lost:
            self._last_obs = None
        begins_anew = reset_num_timesteps or self._last_obs is None
        total_timesteps, callback = self._setup_learn(
            int(total_timesteps), callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if begins_anew:
            self.trainer.collector.reset(cast(np.ndarray, self._last_obs))
        self.target = self.trainer.env_steps + total_timesteps - self.num_timesteps
        self._warn_of_the_end_of_collecting()
        self._warn_of_idle_components()
        self._prepare_perceptual_distance()
        names = {"total_timesteps": total_timesteps, "tb_log_name": tb_log_name}
        callback.on_training_start(names | {"self": self}, globals())
        try:
            for event in self._training_events():
                if not self._serve(event, callback, log_interval, names):
                    break
                yield event
        finally:
            callback.on_training_end()
        self._save_pictures_and_checkpoint()

    def _training_events(self) -> Iterator[Event]:
        try:
            yield from self.trainer.run(self.target)
        except Diverged as error:
            if self.run is None:
                raise
            path = self.run.path / "bad_batches" / f"{error.component}_{error.update:010d}.safetensors"
            path.parent.mkdir(exist_ok=True)
            checkpoint.write_tensors(error.segment.tensors(), path)
            raise RunError(f"{error}, after {self.num_timesteps:,} environment steps; its batch: {path}") from error

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "IRIS",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.run is not None and not self._custom_logger:
            if self._log_marks is not None:
                rewind_logs(self.run.logs, self._log_marks)
            logger = run_logger(self.run.logs, self.verbose)
            logger.output_formats += self.log_outputs
            weakref.finalize(self, close_logger, logger)
            self.set_logger(logger)
        with environment_faults("when it was reset"):  # and no callback's, which are set up after it
            total_timesteps, _ = super()._setup_learn(total_timesteps, None, reset_num_timesteps, tb_log_name)
        return total_timesteps, self._init_callback(callback, progress_bar)

    def _check_holder(self) -> None:
        """Two agents in one run folder would write over one another's steps."""
        if self.run is not None and self._run_lock.holder() is not self:
            raise UsageError(
                f"run_dir={str(self.run.path)!r} belongs to an agent that this process has resumed since; go on with "
                "that one, or resume again"
            )

    def _check_replay(self) -> None:
        """A saved file has no replay; who has collected all that it may, cannot fill another one."""
        limit = self.config.max_env_steps
        if not len(self.replay) and self.trainer.env_steps >= limit and self.trainer.epochs_left(limit):
            raise UsageError(
                f"the replay is empty, for a saved file has none, and all of max_env_steps={limit} are collected, so "
                "there is nothing to learn from; IRISAgent.resume a run folder instead, which keeps its replay"
            )

    def _prepare_perceptual_distance(self) -> None:
        """What it lacks shows here, and not after the first epochs of collecting."""
        distance = self.models.tokenizer.perceptual_distance
        if distance and self.config.perceptual_weight and self.trainer.remaining(self.target)["autoencoder"]:
            distance.prepare(self.device)

    def _warn_of_the_end_of_collecting(self) -> None:
        limit, steps = self.config.max_env_steps, self.trainer.env_steps
        if self.target > limit:
            warnings.warn(
                f"of {self.target - steps:,} environment steps {max(limit - steps, 0):,} are collected, for then "
                f"max_env_steps={limit} are reached; raise it in the config of a new agent to collect more",
                stacklevel=4,
            )

    def _warn_of_idle_components(self) -> None:
        remaining = self.trainer.remaining(self.target)
        end = min(self.target, self.config.max_env_steps)
        for learner in self.trainer.learners:
            if not remaining[learner.name] and not learner.updates and learner.plan.updates_per_epoch:
                steps = learner.plan.start_after * self.trainer.epoch_steps
                warnings.warn(
                    f"learning ends at {end:,} environment steps, before the first update of the "
                    f"{learner.name}, which comes after {steps:,}; learn for longer or lower its start epoch",
                    stacklevel=4,
                )

    def _serve(self, event: Event, callback: BaseCallback, log_interval: int, names: dict[str, Any]) -> bool:
        """Do what Stable-Baselines3 expects at an event; False asks to stop."""
        self._count(event)
        if isinstance(event, CollectionStarted):
            callback.on_rollout_start()
        elif isinstance(event, StepTaken):
            return self._serve_step(event, callback, names)
        elif isinstance(event, CollectionEnded):
            callback.on_rollout_end()
        elif isinstance(event, EpochEnded):
            self._serve_epoch(event, log_interval)
        return True

    def _count(self, event: Event) -> None:
        if isinstance(event, StepTaken):
            self._rates.count("env_steps", len(event.step.dones))
        elif isinstance(event, UpdateDone):
            self._rates.count(f"{event.component}_updates")
        else:
            self._rates.count("rest")

    def _serve_step(self, event: StepTaken, callback: BaseCallback, names: dict[str, Any]) -> bool:
        step = event.step
        self.num_timesteps += len(step.dones)
        self._last_obs, self._last_episode_starts = step.observations, step.dones
        self._update_info_buffer(step.infos, step.dones)
        self._episode_num += int(step.dones.sum())
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.update_locals(
            names
            | {
                "self": self,
                "actions": step.actions,
                "new_obs": step.observations,
                "rewards": step.rewards,
                "dones": step.dones,
                "infos": step.infos,
            }
        )
        return callback.on_step()

    def _serve_epoch(self, event: EpochEnded, log_interval: int) -> None:
        self._n_updates = sum(self.trainer.updates.values())
        self.logger.record("time/epoch", event.epoch)
        for name, value in event.metrics.items():
            self.logger.record(name, value)
        if event.epoch % self.config.checkpoint_interval == 0:
            self._record_pictures()
        if log_interval and event.epoch % log_interval == 0:
            self.dump_logs()
        if event.epoch % self.config.checkpoint_interval == 0:
            self._save_pictures_and_checkpoint()

    def dump_logs(self) -> None:
        """Write what was recorded since the last time, at the current number of environment steps.

        When nothing is collected any more the epochs go on along that axis as if it were, at the pace of the others.
        """
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self._record_machine()
        self.logger.dump(self.num_timesteps + self._idle_steps)

    @property
    def _idle_steps(self) -> int:
        """What would have been collected in the epochs that collected nothing."""
        return self.trainer.idle_epochs * self.trainer.epoch_steps

    def _record_machine(self) -> None:
        """Rates since the last dump, and memory; not in `progress.csv`, which a resumed run repeats to the digit."""
        rates, self._rates = self._rates, Rates()
        for kind in rates.units.keys() - {"rest"}:
            self.logger.record(f"time/{kind}_per_second", rates.per_second(kind), exclude="csv")
        memory = memory_in_use()
        if memory is not None:
            self.logger.record("time/memory_gb", memory / 1e9, exclude="csv")
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            self.logger.record("time/gpu_memory_peak_gb", peak / 1e9, exclude="csv")

    def _record_pictures(self) -> None:
        """Hand reconstructions and a dream to the logger's next dump, where it shows pictures."""
        pictures = self._run_pictures() if shows_pictures(self.logger) else None
        if pictures is None:
            return
        fps = frames_per_second(self.env_id)
        record_pictures(
            self.logger,
            {"media/reconstructions": pictures.reconstructions, "media/dream": pictures.dream},
            {"media/dream_film": (pictures.film, gif(pictures.film, fps))},
            fps=fps,
            step=self.num_timesteps + self._idle_steps,
        )

    def _run_pictures(self) -> RunPictures | None:
        """Pictures of the models as they are, made once; None where nothing was collected yet."""
        progress = self.trainer.progress
        if self._pictures[0] != progress:
            dynamics = Dynamics(self.models.tokenizer, self.models.world_model)
            step = self.trainer.env_steps + self._idle_steps
            self._pictures = progress, run_pictures(step, dynamics, self.replay)
        return self._pictures[1]

    # ---------------------------------------------------------------- acting

    def evaluate(
        self,
        episodes: int = 100,
        *,
        env_id: str | None = None,
        temperature: float | None = None,
        preprocessing: str | None = None,
        seed: int = 0,
        workers: int = 1,
        max_steps: int | None = None,
        on_episode: Any = None,
    ) -> list[EpisodeScore]:
        """Play whole episodes of the real environment under its evaluation protocol; see `evaluation.evaluate`.

        `env_id` defaults to the agent's own, `preprocessing` and `max_steps` to the config's, and `temperature` to
        `config.eval_temperature`; 0 is greedy.
        """
        return evaluate(
            self.evaluation_player(temperature),
            self.evaluation_games(env_id, preprocessing),
            episodes=episodes,
            seed=seed,
            workers=workers,
            max_steps=self.config.max_eval_steps if max_steps is None else max_steps,
            on_episode=on_episode,
        )

    def evaluation_player(self, temperature: float | None = None) -> PolicyPlayer:
        """The agent as `evaluation.evaluate` takes a player; `temperature` defaults to `config.eval_temperature`."""
        temperature = self.config.eval_temperature if temperature is None else temperature
        check_temperature(temperature)
        return PolicyPlayer(self.policy.acting, temperature)

    def evaluation_games(self, env_id: str | None = None, preprocessing: str | None = None) -> OpenEnv:
        """Makes evaluation environments of the agent's id, or of another with the same actions."""
        env_id = env_id or self.env_id
        if env_id is None:
            raise UsageError("env_id=None is not known, for the agent was given an environment without its id; give it")
        config = self.config
        open_env = games(env_id, atari_100k=config.atari_100k, preprocessing=preprocessing or config.preprocessing)
        env = open_env()
        env.close()
        if env.action_space != self.action_space:
            raise UsageError(
                f"env_id={env_id!r} has actions {env.action_space}, the agent was made for {self.action_space}"
            )
        return open_env

    def make_dream_env(self, num_envs: int, **keywords: Any) -> DreamVectorEnv:
        """What the agent has learned of its environment, as a vector environment; see `DreamVectorEnv` for `keywords`.

        Dreams start in the replay, or at the frames that were saved with the agent, unless `start_frames` are given.
        The networks are shared: when they have learned on, reset the dream.
        """
        warn_of_untrained(self.trainer.updates)
        starts = replay_starts(self.replay) if len(self.replay) else self.start_frames
        return build_dream(self.models, num_envs, env_id=self.env_id, **({"start_frames": starts} | keywords))

    def _evaluation_metrics(self) -> dict[str, float]:
        if not self.trainer.updates["actor_critic"]:
            return {}  # it has learned nothing that could be told from chance
        scores = self.evaluate(self.config.eval_episodes)
        return {
            "mean_return": float(np.mean([score.episode_return for score in scores])),
            "mean_length": float(np.mean([score.length for score in scores])),
        }

    # ---------------------------------------------------------------- keeping

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refused, and so are copies: what an agent learns by holds its networks, which a copy would go on training."""
        raise UsageError("an IRISAgent cannot be copied or pickled; save it, and load it with an env")

    def save(self, path: str | Path) -> None:  # type: ignore[override]
        """Write one file of JSON and safetensors: config, weights, optimizers, random states; not the replay.

        `.zip` is added to a name without suffix. Any Python can read the file without running code from it.
        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"path={path!r} is no path; an agent is saved to a file by name")
        path = saved_file(Path(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_zip(self._snapshot(), path)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: GymEnv | str | None = None,
        device: torch.device | str = "auto",
        *,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
    ) -> "IRISAgent":
        """An agent as it was saved, by `save` or as the newest checkpoint of a run folder.

        Without `env` it can predict, evaluate and dream; to learn further give it one. Its images may be of another
        size. A run folder is only read; to go on in it, use `resume`. Without `seed` all random streams go on where
        they stood, Python's, NumPy's and torch's global ones included; with one they begin anew.
        """
        snapshot = read_snapshot(path, check_stored)
        agent = cls._from_snapshot(
            snapshot,
            path,
            env,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=snapshot.state["seed"] if seed is None else seed,
            device=device,
        )
        if seed is not None:  # not where the saved ones stood
            agent.set_random_seed(seed)
        if Path(path).is_dir():
            agent.scores_file = RunFolder(Path(path)).scores_file
        return agent

    @classmethod
    def resume(
        cls, run_dir: str | Path, env: GymEnv | str | None = None, device: torch.device | str = "auto", verbose: int = 0
    ) -> "IRISAgent":
        """Go on with the run in a folder: newest checkpoint, replay, logs. Where nothing was saved yet it begins anew.

        It goes on as if it had never been stopped, bit for bit on a CPU, in every environment that a seed and actions
        determine. Games of the ALE are put back where they stood; others are played again up to there. `env` defaults
        to the run's id; a run in an environment that was given as an object needs it again.
        """
        run = RunFolder(Path(run_dir))
        run.check_run()
        run.check_files()
        snapshot = checkpoint.read_newest_checkpoint(run.checkpoints, check_stored)
        settings = run.settings() if snapshot is None else snapshot.state
        if snapshot is None and settings.get("imported"):
            raise UsageError(f"run={str(run_dir)!r} is of an import that was stopped; remove it, and import again")
        if "seed" not in settings:
            raise UsageError(f"run={str(run_dir)!r} has no complete checkpoint yet, nor a seed to begin anew with")
        check_entries({"env": None} | settings, SETTINGS, f"run={str(run_dir)!r}")
        if env is None and settings.get("env") is None:
            raise UsageError("env=None is not enough: the run's environment was given as an object; give it again")
        return cls(
            settings["env"] if env is None else env,
            IRISConfig.load(run.config_file) if snapshot is None else _config_of(snapshot, run_dir),
            verbose=verbose,
            seed=settings["seed"],
            device=device,
            _snapshot=snapshot,
            _run=run,
        )

    @classmethod
    def _from_snapshot(
        cls, snapshot: Snapshot, source: str | Path, env: GymEnv | str | None, **arguments: Any
    ) -> "IRISAgent":
        return cls(env, _config_of(snapshot, source), _snapshot=snapshot, **arguments)

    def save_checkpoint(self) -> None:
        """Write a checkpoint into the run folder; without one, nothing."""
        if self.run is None:
            return
        self._check_holder()
        self.replay.flush()
        checkpoint.write_checkpoint(
            self._run_snapshot(), self.run.checkpoints, self.trainer.progress, self.config.keep_checkpoints
        )

    def _save_pictures_and_checkpoint(self) -> None:
        """In this order: a run that is killed in between makes the pictures again."""
        pictures = self._run_pictures() if self.run else None
        if self.run is not None and pictures is not None:
            save_run_pictures(self.run.media, pictures, frames_per_second(self.env_id))
        self.save_checkpoint()

    def set_parameters(  # type: ignore[override]
        self, load_path_or_dict: str | Path | Mapping[str, Any], exact_match: bool = True, device: Any = "auto"
    ) -> None:
        """Load weights from a saved agent, a run folder or what `get_parameters` gave, in place."""
        if isinstance(load_path_or_dict, Mapping):
            try:
                super().set_parameters(dict(load_path_or_dict), exact_match, device)
            except (ValueError, TypeError, RuntimeError, AttributeError) as error:
                raise UsageError(f"parameters that this agent has not: {one_line(error)}") from error
        else:
            snapshot = read_snapshot(load_path_or_dict, check_stored)
            checkpoint.load_modules(self.models.by_name(), snapshot.weights, repr(str(load_path_or_dict)))
        self._refresh_collector()

    def _refresh_collector(self) -> None:
        """After weights were loaded: it may act with a copy of them."""
        if self.trainer.collector is not None:
            self.trainer.collector.policy.refresh()

    def _snapshot(self) -> Snapshot:
        state, training = training_state(self.trainer, self.streams)
        state |= {
            "config": self.config.to_dict(),
            "env": self.env_id,
            "num_actions": int(cast(spaces.Discrete, self.action_space).n),
            "observation_shape": list(self.observation_space.shape or ()),
            "n_envs": self.n_envs,
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            "replay_rows": len(self.replay),
        }
        drawn = draw_start_frames(self.replay)
        starts = self.start_frames if drawn is None else drawn
        return Snapshot(state, checkpoint.module_tensors(self.models.by_name()), training, starts)

    def _run_snapshot(self) -> Snapshot:
        """With what only a run needs to go on in its folder: the environment, statistics, and how far the logs are."""
        snapshot = self._snapshot()
        logger = getattr(self, "_logger", None)
        snapshot.state["logs"] = self._log_marks
        if self.run and logger and logger.get_dir() == str(self.run.logs):
            snapshot.state["logs"] = log_marks(logger)
        if self._last_obs is not None and self.trainer.collector is not None:
            observations = cast(np.ndarray, self._last_obs)
            state, tensors = collection_state(self.trainer.collector, observations)
            snapshot.state.update(state, agent=self._statistics())
            snapshot.training.update(tensors)
        return snapshot

    def _statistics(self) -> dict[str, Any]:
        """What Stable-Baselines3 counts of the episodes, ready for JSON."""
        assert self._last_episode_starts is not None
        return {
            "episode_starts": self._last_episode_starts.tolist(),
            "episode_num": self._episode_num,
            "episodes": [{name: float(info.get(name, 0)) for name in "rlt"} for info in self.ep_info_buffer or ()],
            "successes": [float(success) for success in self.ep_success_buffer or ()],
        }

    def _restore_collection(self, snapshot: Snapshot) -> None:
        """Stand where the run stood in its environment, or, with a warning, let the next `learn` reset it."""
        assert self.trainer.collector is not None
        self._last_obs = restore_collection(snapshot, self.trainer.collector)
        if "agent" not in snapshot.state:
            return
        statistics = snapshot.state["agent"]
        self._last_episode_starts = np.array(statistics["episode_starts"])
        self._episode_num = statistics["episode_num"]
        self.ep_info_buffer = deque(statistics["episodes"], maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(statistics["successes"], maxlen=self._stats_window_size)
        if self._last_obs is None:
            warnings.warn(
                "the environment cannot be brought back to where the run stood, since its seed and actions do not "
                "determine it; it is reset, and the open episodes count as truncated",
                stacklevel=5,
            )

    def _scores(self) -> dict[str, Any] | None:
        file = self.scores_file
        scores = read_scores(file) if file and file.exists() else None
        if scores is None or scores.get("env") != self.env_id:
            return None
        return scores if steps_of(scores) == self.trainer.steps_trained else None

    def _restore(self, snapshot: Snapshot) -> None:
        checkpoint.load_modules(self.models.by_name(), snapshot.weights, "the saved agent")
        if self.run is not None:  # before the random streams, from which environments may draw
            self._restore_collection(snapshot)
        restore_training(snapshot, self.trainer, self.streams)
        if not len(self.replay):  # a saved file has none, and the epoch cannot be ended without its steps
            self.trainer.begin_epoch_anew()
        self.num_timesteps = snapshot.state["num_timesteps"]


def _name_of(env: Any) -> str:
    """An environment's id, or what to call one that was given as an object. Raises `UsageError` for anything else."""
    if isinstance(env, str):
        return env
    if not isinstance(env, gym.Env | VecEnv):
        raise UsageError(f"env={env!r} is neither an id nor a gymnasium.Env nor a Stable-Baselines3 VecEnv")
    spec = getattr(env, "spec", None)
    return spec.id if spec else type(env).__name__


def _check_actions(name: str, action_space: spaces.Space, made_for: int) -> None:
    """Raise `UsageError` where an environment has other actions than the agent was made for."""
    actions = int(cast(spaces.Discrete, action_space).n)
    if actions != made_for:
        raise UsageError(
            f"env={name!r} has {actions} actions, the agent was made for {made_for}; "
            "give the environment that it was trained in"
        )


def _config_of(snapshot: Snapshot, path: str | Path) -> IRISConfig:
    try:
        return IRISConfig.from_dict(snapshot.state["config"])
    except (UsageError, KeyError) as error:
        raise UsageError(f"{str(path)!r} holds a config that cannot be used: {error}") from error

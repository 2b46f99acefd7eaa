"""`IRISAgent`: IRIS with the face of a Stable-Baselines3 algorithm."""

import json
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from iris_gym.assembly import (
    build_acting,
    build_collector,
    build_dream,
    build_models,
    build_trainer,
    choose_device,
    draw_start_frames,
    replay_starts,
    warn_of_untrained,
)
from iris_gym.config import IRISConfig, preset
from iris_gym.data.replay import Replay
from iris_gym.dream import DreamVectorEnv
from iris_gym.envs import check_spaces, make_vec_env
from iris_gym.errors import UsageError
from iris_gym.evaluation.evaluate import MAX_STEPS, check_temperature, evaluate
from iris_gym.evaluation.pictures import save_run_pictures
from iris_gym.evaluation.players import PolicyPlayer
from iris_gym.evaluation.rows import EpisodeScore, OpenEnv, games
from iris_gym.hub import HubAgent
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.policy import IRISPolicy
from iris_gym.published import PublishedAgent
from iris_gym.training import checkpoint
from iris_gym.training.checkpoint import Snapshot
from iris_gym.training.logs import run_logger
from iris_gym.training.randomness import RandomStreams, checked_seed
from iris_gym.training.run_folder import RunFolder, read_snapshot
from iris_gym.training.snapshots import restore_training, training_state
from iris_gym.training.trainer import (
    CollectionEnded,
    CollectionStarted,
    EpochEnded,
    Event,
    StepTaken,
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
        seed: of every random stream, torch's global one and the environment. None: from entropy.
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
    ) -> None:
        if policy != "IRISPolicy":
            raise UsageError(f"policy={policy!r} is unknown; IRIS has the one policy 'IRISPolicy'")
        seed = checked_seed(seed)
        chosen_device = choose_device(device)
        self.config = (config or preset("auto", chosen_device.type)).replace()
        self.config.validate()
        if run_dir is not None:
            RunFolder(Path(run_dir)).check_free()
        if env is None and _snapshot is None:
            env = self.config.env
        self.env_id = env if isinstance(env, str) else None
        if self.env_id is not None:
            self.config.env = self.env_id
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
        self.run = _run
        if run_dir is not None:
            self.run = RunFolder(Path(run_dir))
            self.run.create(self.config.to_dict())
        rows = _snapshot.state["replay_rows"] if _snapshot and _run else None
        self.replay = Replay(self.run.replay if self.run else None, rows=rows, device=self.device)
        self.start_frames = _snapshot.start_frames if _snapshot else None
        self._setup_model()
        if _snapshot is not None:
            self._restore(_snapshot)

    # ---------------------------------------------------------------- building

    def _vec_env(self, env: GymEnv | str | None, verbose: int = 0) -> VecEnv | None:
        """Whatever the user has for an environment, as a `VecEnv` of images."""
        if env is None:
            return None
        if isinstance(env, str):
            config = self.config
            env = make_vec_env(env, 1, atari_100k=config.atari_100k, preprocessing=config.preprocessing)
        else:
            spec = getattr(env, "spec", None)
            check_spaces(env.observation_space, env.action_space, spec.id if spec else type(env).__name__)
        return self._wrap_env(env, verbose)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As in Stable-Baselines3, but images keep their layout: `predict` takes both, and environments for
        `EvalCallback` then are of the same type as the one for training."""
        if isinstance(env, VecEnv):
            return env
        monitored = Monitor(env) if monitor_wrapper and not is_wrapped(env, Monitor) else env
        return DummyVecEnv([lambda: monitored])

    def _take_spaces(self, snapshot: Snapshot) -> None:
        self.observation_space = spaces.Box(0, 255, tuple(snapshot.state["observation_shape"]), np.uint8)
        self.action_space = spaces.Discrete(snapshot.state["num_actions"])
        self.n_envs = snapshot.state["n_envs"]

    def _setup_model(self) -> None:
        self.set_random_seed(self.seed)
        self.streams = RandomStreams(self.seed, self.device)
        action_space = cast(spaces.Discrete, self.action_space)
        self.models = build_models(self.config, int(action_space.n), self.device)
        self.policy = IRISPolicy(  # pyright: ignore[reportIncompatibleVariableOverride]
            self.observation_space,
            action_space,
            self.models,
            temperature=self.config.eval_temperature,
            generator=self.streams.predicting,
        )
        self.trainer = build_trainer(
            self.config,
            self.models,
            self.replay,
            self.streams,
            env=self.env,
            evaluate=self._evaluation_metrics if self.env_id else None,
        )

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Exchange the environment for one with the same spaces and number of rows; see `BaseAlgorithm.set_env`."""
        super().set_env(env, force_reset)
        assert self.env is not None
        self.env_id, self.trainer.evaluate = None, None
        self.trainer.collector = build_collector(
            self.config, build_acting(self.config, self.models), self.replay, self.streams, self.env
        )
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
        `config.total_epochs`. `log_interval` counts epochs. A callback that returns False ends at that step.
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

        With `total_timesteps` 0 it only ends an epoch that was stopped in its middle.
        """
        if self.env is None:
            raise UsageError("env=None cannot be learned from; load with env=…, or call set_env first")
        begins_anew = reset_num_timesteps or self._last_obs is None
        total_timesteps, callback = self._setup_learn(
            int(total_timesteps), callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if begins_anew:
            assert self.trainer.collector is not None
            self.trainer.collector.reset(cast(np.ndarray, self._last_obs))
        self.target = self.trainer.env_steps + total_timesteps - self.num_timesteps
        self._warn_of_idle_components()
        names = {"total_timesteps": total_timesteps, "tb_log_name": tb_log_name}
        callback.on_training_start(names | {"self": self}, globals())
        for event in self.trainer.run(self.target):
            if not self._serve(event, callback, log_interval, names):
                break
            yield event
        callback.on_training_end()
        self.save_checkpoint()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self.run is not None and not self._custom_logger:
            logger = run_logger(self.run.logs, self.verbose)
            weakref.finalize(self, logger.close)
            self.set_logger(logger)
        return super()._setup_learn(*args, **kwargs)

    def _warn_of_idle_components(self) -> None:
        remaining = self.trainer.remaining(self.target)
        for learner in self.trainer.learners:
            if not remaining[learner.name] and not learner.updates and learner.plan.updates_per_epoch:
                steps = learner.plan.start_after * self.config.env_steps_per_epoch
                warnings.warn(
                    f"learning ends at {self.target:,} environment steps, before the first update of the "
                    f"{learner.name}, which comes after {steps:,}; learn for longer or lower its start epoch",
                    stacklevel=4,
                )

    def _serve(self, event: Event, callback: BaseCallback, log_interval: int, names: dict[str, Any]) -> bool:
        """Do what Stable-Baselines3 expects at an event; False asks to stop."""
        if isinstance(event, CollectionStarted):
            callback.on_rollout_start()
        elif isinstance(event, StepTaken):
            return self._serve_step(event, callback, names)
        elif isinstance(event, CollectionEnded):
            callback.on_rollout_end()
        elif isinstance(event, EpochEnded):
            self._serve_epoch(event, log_interval)
        return True

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
        self._n_updates = sum(learner.updates for learner in self.trainer.learners)
        self.logger.record("time/epoch", event.epoch)
        for name, value in event.metrics.items():
            self.logger.record(name, value)
        if log_interval and event.epoch % log_interval == 0:
            self.dump_logs()
        if event.epoch % self.config.checkpoint_interval == 0:
            self.save_checkpoint()

    def dump_logs(self) -> None:
        """Write what was recorded since the last time, at the current number of environment steps."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

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
        max_steps: int = MAX_STEPS,
        on_episode: Any = None,
    ) -> list[EpisodeScore]:
        """Play whole episodes of the real environment under its evaluation protocol; see `evaluation.evaluate`.

        `env_id` defaults to the agent's own, `preprocessing` to the config's, and `temperature` to
        `config.eval_temperature`; 0 is greedy.
        """
        return evaluate(
            self.evaluation_player(temperature),
            self.evaluation_games(env_id, preprocessing),
            episodes=episodes,
            seed=seed,
            workers=workers,
            max_steps=max_steps,
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
        warn_of_untrained({learner.name: learner.updates for learner in self.trainer.learners})
        starts = replay_starts(self.replay) if len(self.replay) else self.start_frames
        return build_dream(self.models, num_envs, env_id=self.env_id, **({"start_frames": starts} | keywords))

    def _evaluation_metrics(self) -> dict[str, float]:
        scores = self.evaluate(self.config.eval_episodes)
        return {
            "mean_return": float(np.mean([score.episode_return for score in scores])),
            "mean_length": float(np.mean([score.length for score in scores])),
        }

    # ---------------------------------------------------------------- keeping

    def save(self, path: str | Path) -> None:  # type: ignore[override]
        """Write one file of JSON and safetensors: config, weights, optimizers, random states; not the replay.

        `.zip` is added to a name without suffix. Any Python can read the file without running code from it.
        """
        path = Path(path)
        if not path.suffix:
            path = path.with_name(path.name + ".zip")
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

        Without `env` it can predict, evaluate and dream; to learn further give it one. A run folder is only read; to
        go on in it, use `resume`.
        """
        snapshot = read_snapshot(path)
        return cls._from_snapshot(
            snapshot,
            path,
            env,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=snapshot.state["seed"] if seed is None else seed,
            device=device,
        )

    @classmethod
    def resume(
        cls, run_dir: str | Path, env: GymEnv | str | None = None, device: torch.device | str = "auto", verbose: int = 0
    ) -> "IRISAgent":
        """Go on with the run in a folder: newest checkpoint, replay, logs.

        `env` defaults to the run's id; a run in an environment that was given as an object needs it again.
        """
        run = RunFolder(Path(run_dir))
        run.check_run()
        snapshot = read_snapshot(run_dir)
        config = _config_of(snapshot, run_dir)
        if env is None and snapshot.state["env"] is None:
            raise UsageError("env=None is not enough: the run's environment was given as an object; give it again")
        return cls(
            snapshot.state["env"] if env is None else env,
            config,
            verbose=verbose,
            seed=snapshot.state["seed"],
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
        """Write a checkpoint and pictures into the run folder; without one, nothing."""
        if self.run is None:
            return
        self.replay.flush()
        checkpoint.write_checkpoint(
            self._snapshot(), self.run.checkpoints, self.trainer.progress, self.config.keep_checkpoints
        )
        save_run_pictures(
            self.run.media,
            self.trainer.env_steps,
            Dynamics(self.models.tokenizer, self.models.world_model),
            self.replay,
        )

    def set_parameters(  # type: ignore[override]
        self, load_path_or_dict: str | Path | Mapping[str, Any], exact_match: bool = True, device: Any = "auto"
    ) -> None:
        """Load weights from a saved agent, a run folder or what `get_parameters` gave, in place."""
        if isinstance(load_path_or_dict, Mapping):
            super().set_parameters(dict(load_path_or_dict), exact_match, device)
        else:
            snapshot = read_snapshot(load_path_or_dict)
            checkpoint.load_modules(self.models.by_name(), snapshot.weights, repr(str(load_path_or_dict)))

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

    def _scores(self) -> dict[str, Any] | None:
        file = self.run.scores_file if self.run else None
        return json.loads(file.read_text()) if file and file.is_file() else None

    def _restore(self, snapshot: Snapshot) -> None:
        checkpoint.load_modules(self.models.by_name(), snapshot.weights, "the saved agent")
        restore_training(snapshot, self.trainer, self.streams)
        if not len(self.replay):  # a saved file has none, and the epoch cannot be ended without its steps
            self.trainer.begin_epoch_anew()
        self.num_timesteps = snapshot.state["num_timesteps"]


def _config_of(snapshot: Snapshot, path: str | Path) -> IRISConfig:
    try:
        return IRISConfig.from_dict(snapshot.state["config"])
    except (UsageError, KeyError) as error:
        raise UsageError(f"{str(path)!r} holds a config that cannot be used: {error}") from error

"""How each agent learns, and how it plays when it is evaluated."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from iris_gym import IRISAgent, IRISConfig, make_env
from iris_gym.config import preset
from iris_gym.dream import DreamSB3VecEnv
from iris_gym.evaluation.players import RandomPlayer
from iris_gym.evaluation.rows import Player
from iris_gym.training.trainer import EpochEnded, StepTaken

from .jobs import ABLATIONS, Job
from .recorder import Recorder

EXPLORATION_STEPS, FINAL_EPSILON = 3_000, 0.05
DREAM_ENVS, DREAM_EVALUATIONS = 16, 4

ON_POLICY = dict(learning_rate=3e-4, n_steps=250, batch_size=50, n_epochs=10, gamma=0.99, ent_coef=0.01)
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "ppo": dict(policy="CnnPolicy", **ON_POLICY),
    "recurrent_ppo": dict(policy="CnnLstmPolicy", **ON_POLICY),
    "dqn": dict(
        policy="CnnPolicy",
        learning_rate=3e-4,
        buffer_size=10_000,
        learning_starts=500,
        batch_size=32,
        gamma=0.99,
        train_freq=1,
        target_update_interval=500,
        exploration_final_eps=FINAL_EPSILON,
    ),
    "dream_ppo": dict(policy="CnnPolicy", **(ON_POLICY | dict(n_steps=64, batch_size=256, n_epochs=4))),
}
"""For few steps: Stable-Baselines3's defaults are for millions. What is not here is as it is there."""


class ModelPlayer:
    """An algorithm of Stable-Baselines3 as `evaluate` takes a player. `view` changes what it sees.

    At temperature 0 it is greedy. Else the logits of a policy that has some are divided by the temperature.
    """

    refills = True

    def __init__(
        self, model: BaseAlgorithm, *, temperature: float = 1.0, view: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        self.model, self.temperature, self.view = model, temperature, view

    def prepare(self, rows: int, num_actions: int) -> None:
        self.state, self.starts = None, np.ones(rows, bool)

    def begin(self, seeds: Mapping[int, int]) -> None:
        self.starts[list(seeds)] = True

    def act(self, observations: np.ndarray) -> np.ndarray:
        seen = self.view(observations) if self.view else observations
        with tempered(self.model, self.temperature):
            actions, self.state = self.model.predict(seen, self.state, self.starts, deterministic=self.temperature == 0)
        self.starts[:] = False
        return actions


@contextmanager
def tempered(model: BaseAlgorithm, temperature: float) -> Iterator[None]:
    """A policy whose logits are divided in here; at 1 nothing is to be done, nor at 0, where the largest counts."""
    if temperature in (0, 1):
        yield
        return

    def divide(layer: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        return logits / temperature

    hook = cast(ActorCriticPolicy, model.policy).action_net.register_forward_hook(divide)
    try:
        yield
    finally:
        hook.remove()


def ways_to_play(model: BaseAlgorithm) -> dict[str, float]:
    """By their names, the temperatures at which a model is evaluated; of a policy IRIS's own is one of them."""
    own = IRISConfig().eval_temperature
    has_logits = isinstance(model.policy, ActorCriticPolicy)
    return {"sampled": 1.0, **({f"temperature {own:g}": own} if has_logits else {}), "greedy": 0.0}


class Evaluating(BaseCallback):
    """Evaluates at the recorder's checkpoints, in each way to play, and stops where its goal is reached."""

    def __init__(self, recorder: Recorder, view: Callable[[np.ndarray], np.ndarray] | None = None, **more: Any) -> None:
        super().__init__()
        self.recorder, self.view, self.more = recorder, view, more

    def _on_rollout_start(self) -> None:
        self._record_if_due(learned=True)

    def _on_step(self) -> bool:
        self._record_if_due(learned=False)
        return not self.recorder.reached

    def _on_training_end(self) -> None:
        self._record_if_due(learned=True)

    def _record_if_due(self, *, learned: bool) -> None:
        if not self.recorder.due(self.num_timesteps, learned=learned):
            return
        model = self.model
        players: dict[str, Player] = {
            name: ModelPlayer(model, temperature=temperature, view=self.view)
            for name, temperature in ways_to_play(model).items()
        }
        before = getattr(model, "exploration_rate", None)  # DQN samples with it, from the stream of its action space
        stream = model.action_space.np_random.bit_generator.state
        if before is not None:
            model.exploration_rate = FINAL_EPSILON  # pyright: ignore[reportAttributeAccessIssue]
        self.recorder.record(players, **self.more)
        if before is not None:
            model.exploration_rate = before  # pyright: ignore[reportAttributeAccessIssue]
        model.action_space.np_random.bit_generator.state = stream


def learn_random(job: Job) -> Recorder:
    recorder = Recorder(job, checkpoints=[0])
    recorder.record({"sampled": RandomPlayer(job.seed + 1)})
    return recorder


def iris_config(job: Job) -> IRISConfig:
    """The preset for so many steps: it ends with them, and leaves evaluations to the study."""
    config = preset(job.sizes.preset).replace(atari_100k=False, max_env_steps=job.sizes.steps, eval_interval=0)
    config = config.replace(total_epochs=1)  # and so learns no longer than it collects
    return config.replace(**ABLATIONS[job.ablation]) if job.ablation else config


def learn_iris(job: Job) -> Recorder:
    agent = IRISAgent(job.env_id, iris_config(job), seed=job.seed, device="cpu")
    recorder, metrics = Recorder(job, asdict(agent.config)), {}
    way = f"temperature {agent.config.eval_temperature:g}"
    for event in agent.learn_events(job.env_steps):
        if isinstance(event, EpochEnded):
            metrics = {name: round(value, 4) for name, value in event.metrics.items()}
        elif not isinstance(event, StepTaken):
            continue
        if recorder.due(agent.num_timesteps, learned=isinstance(event, EpochEnded)):
            recorder.record({way: agent.evaluation_player()}, metrics=metrics)
    if job.ablation is None:
        agent.save(job.agent_file)
    return recorder


def algorithm(name: str) -> type[BaseAlgorithm]:
    if name == "recurrent_ppo":
        from sb3_contrib import RecurrentPPO  # a package of its own, which the others do without

        return RecurrentPPO
    return {"ppo": PPO, "dqn": DQN}[name]


def learn_model_free(job: Job) -> Recorder:
    arguments = dict(HYPERPARAMETERS[job.agent])
    if job.agent == "dqn":
        arguments |= dict(buffer_size=max(arguments["buffer_size"], min(job.env_steps, 50_000)))
        arguments |= dict(exploration_fraction=min(EXPLORATION_STEPS / job.env_steps, 1))
    model = algorithm(job.agent)(env=make_env(job.env_id), seed=job.seed, device="cpu", **arguments)
    recorder = Recorder(job, arguments)
    model.learn(job.env_steps, callback=Evaluating(recorder))
    return recorder


def learn_in_dream(job: Job) -> Recorder:
    """PPO sees nothing of the real environment but the reconstructed frames of its evaluations.

    Its dreams are as long as those in which IRIS's own actor has learned.
    """
    iris = job.iris.result()
    assert iris is not None, "IRIS comes first"
    agent = IRISAgent.load(job.iris.agent_file, device="cpu")
    arguments = HYPERPARAMETERS["dream_ppo"]
    dreams = dict(num_envs=DREAM_ENVS, horizon=agent.config.imagination_horizon)
    env = DreamSB3VecEnv(agent.make_dream_env(**dreams))
    model = PPO(env=env, seed=job.seed, device="cpu", **arguments)

    @torch.no_grad()
    def reconstructed(observations: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(observations).permute(0, 3, 1, 2) / 255
        return (agent.models.tokenizer.reconstruct(frames) * 255).round().byte().permute(0, 2, 3, 1).numpy()

    total = job.sizes.dream_steps
    recorder = Recorder(
        job,
        arguments | dreams,
        checkpoints=[total * part // DREAM_EVALUATIONS for part in range(1, DREAM_EVALUATIONS + 1)],
    )
    model.learn(total, callback=Evaluating(recorder, reconstructed))
    before = iris["points"][-1]
    for point in recorder.points:  # the real steps and the time before are IRIS's
        point |= {"dream_steps": point["env_steps"], "env_steps": before["env_steps"]}
        point |= {clock: round(point[clock] + before[clock], 1) for clock in ("seconds", "cpu_seconds")}
    return recorder


LEARN: dict[str, Callable[[Job], Recorder]] = {
    "random": learn_random,
    "iris": learn_iris,
    "ppo": learn_model_free,
    "dqn": learn_model_free,
    "recurrent_ppo": learn_model_free,
    "dream_ppo": learn_in_dream,
}

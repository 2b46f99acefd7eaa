"""Build every collaborator from a config, once. Nobody below this floor sees the config."""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from iris_gym.accelerate import Captured, CUDAGraphs, FrozenCopy, Numerics, compute_dtype
from iris_gym.config import IRISConfig
from iris_gym.data.replay import Replay
from iris_gym.dream import DreamVectorEnv
from iris_gym.envs import frames_per_second
from iris_gym.errors import UsageError
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.imagination.policy import Policy
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.nn.convnet import strided_decoder, strided_encoder
from iris_gym.nn.perceptual import PerceptualDistance
from iris_gym.nn.quantizer import EMAQuantizer, GradientQuantizer, Quantizer
from iris_gym.nn.vqgan import vqgan_decoder, vqgan_encoder
from iris_gym.training.collector import Collector
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.imitation import Imitation, with_imitation
from iris_gym.training.learner import Learner, LearnerPlan
from iris_gym.training.losses import (
    Imagination,
    actor_critic_loss,
    autoencoder_loss,
    dreaming,
    imagine,
    world_model_loss,
)
from iris_gym.training.muon import Muon
from iris_gym.training.novelty import Novelty, with_novelty
from iris_gym.training.parts import actor_critic_parts, autoencoder_parts, world_model_parts
from iris_gym.training.randomness import RandomStreams
from iris_gym.training.trainer import Trainer
from iris_gym.types import FRAME_SIZE
from iris_gym.untrusted.documents import shown


@dataclass(frozen=True)
class Models:
    """The three learned components."""

    tokenizer: Tokenizer
    world_model: WorldModel
    actor_critic: ActorCritic

    def by_name(self) -> dict[str, nn.Module]:
        return {"tokenizer": self.tokenizer, "world_model": self.world_model, "actor_critic": self.actor_critic}


def choose_device(device: torch.device | str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `UsageError` for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about devices that torch once had
            chosen = torch.device(device)
            torch.empty(0, device=chosen).cpu()  # the device meta makes tensors, but holds nothing
    except Exception as error:  # of any kind: torch looks for a module of the device's name
        here = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise UsageError(f"device={shown(str(device))} is not there; this machine has {here}, or say auto") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(
            f"device={shown(str(device))} is of a kind that iris_gym does not support; say cpu, cuda or auto"
        )
    return chosen


def build_models(config: IRISConfig, num_actions: int, device: torch.device | str = "auto") -> Models:
    """Tokenizer, world model and actor-critic of a config, in evaluation mode on `device`, without an environment."""
    models, chosen = create_models(config, num_actions), choose_device(device)
    for module in models.by_name().values():
        module.to(chosen).eval()
    # Channels last: on a CPU pooling is several times faster, and on a GPU convolutions are.
    for module in (models.actor_critic, *([models.tokenizer] if chosen.type == "cuda" else [])):
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return models


def create_models(config: IRISConfig, num_actions: int) -> Models:
    """The models where torch creates tensors; with the device `meta`, only their names and shapes."""
    config.validate()
    tokenizer = _build_tokenizer(config)
    world_model = WorldModel(
        vocab_size=config.vocab_size,
        num_actions=num_actions,
        tokens_per_frame=config.tokens_per_frame,
        timesteps=config.transformer_timesteps,
        embed_dim=config.transformer_embed_dim,
        layers=config.transformer_layers,
        heads=config.transformer_heads,
        dropout=config.transformer_dropout,
        gradient_checkpointing=config.gradient_checkpointing,
        outcomes_in_sequence=config.sequence_layout == "frame_action_reward_end",
        learn_first_frames=config.learn_first_frames,
    )
    actor_critic = ActorCritic(
        num_actions,
        channels=config.actor_channels,
        lstm_dim=config.lstm_dim,
        zero_heads=config.zero_heads,
        feature_norm=config.feature_norm,
        orthogonal_init=config.orthogonal_init,
    )
    return Models(tokenizer, world_model, actor_critic)


def _build_tokenizer(config: IRISConfig) -> Tokenizer:
    encoder, decoder = _build_autoencoder(config)
    return Tokenizer(
        encoder,
        decoder,
        _build_quantizer(config),
        commitment_weight=config.commitment_weight,
        pixel_error=torch.abs if config.reconstruction_loss == "l1" else torch.square,
        foreground_weight=config.foreground_weight,
        perceptual_distance=PerceptualDistance(),
        perceptual_weight=config.perceptual_weight,
    )


def _build_autoencoder(config: IRISConfig) -> tuple[nn.Module, nn.Module]:
    channels, steps, dim = config.encoder_channels, config.encoder_downsamplings, config.token_embedding_dim
    if config.autoencoder == "strided":
        return strided_encoder(channels, steps, dim), strided_decoder(channels, steps, dim)
    sizes = FRAME_SIZE, channels, steps, config.encoder_output_channels, dim
    return vqgan_encoder(*sizes), vqgan_decoder(*sizes)


def _build_quantizer(config: IRISConfig) -> Quantizer:
    if config.codebook == "gradient":
        return GradientQuantizer(config.vocab_size, config.token_embedding_dim)
    return EMAQuantizer(
        config.vocab_size,
        config.token_embedding_dim,
        decay=config.codebook_decay,
        dead_code_threshold=config.dead_code_threshold,
    )


def build_replay(config: IRISConfig, folder: Path | None, **arguments: Any) -> Replay:
    """The replay of a config; see `Replay` for its arguments."""
    mirror = None if config.accelerate else False
    return Replay(folder, mirror=mirror, uniform=config.sample_uniformly, **arguments)


def build_trainer(
    config: IRISConfig,
    models: Models,
    replay: Replay,
    streams: RandomStreams,
    *,
    env: VecEnv | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> Trainer:
    """The trainer of a config. Without `env` it collects nothing."""
    trainer = Trainer(
        build_collector(config, build_acting(config, models), replay, streams, env) if env else None,
        build_learners(config, models, streams, replay, random_rows=lambda: trainer.random_rows),
        replay,
        env_steps_per_epoch=config.env_steps_per_epoch,
        max_env_steps=config.max_env_steps,
        total_epochs=config.total_epochs,
        generator=streams.sampling,
        random_steps=config.random_steps,
        evaluate=evaluate,
        eval_interval=config.eval_interval,
    )
    return trainer


def build_collector(
    config: IRISConfig, policy: Policy, replay: Replay, streams: RandomStreams, env: VecEnv
) -> Collector:
    return Collector(
        env,
        policy,
        replay,
        burn_in=config.burn_in,
        epsilon=config.epsilon,
        temperature=config.collect_temperature,
        return_steps=config.imagination_horizon - 1,
        generator=streams.collecting,
    )


def build_learners(
    config: IRISConfig,
    models: Models,
    streams: RandomStreams,
    replay: Replay | None = None,
    *,
    random_rows: Callable[[], int] = lambda: 0,
) -> list[Learner]:
    """Autoencoder, world model and actor-critic in the order in which an epoch trains them.

    In `replay` it is counted what is novel, and found what is imitated, behind its first `random_rows`; it may be None
    where `novelty_weight` and `imitation_share` are 0.
    """
    frozen = freeze(config, models)
    cache = FrameCache(models.tokenizer, frozen.tokenizer, keep=config.cache_frames)
    return [
        _autoencoder_learner(config, models),
        _world_model_learner(config, models, cache),
        _actor_critic_learner(config, models, cache, streams, frozen, replay, random_rows),
    ]


WIDE = 128
"""Width of the transformer above which networks gain from bf16; narrower ones are bound by what is around products."""


def training_dtype(config: IRISConfig, device: torch.device) -> torch.dtype:
    """In which autoencoder and world model are computed in training."""
    worthwhile = config.accelerate and config.transformer_embed_dim > WIDE
    return compute_dtype(config.precision, device, worthwhile=worthwhile)


def _numerics(config: IRISConfig, module: nn.Module, *, dtype: torch.dtype | None = None) -> Numerics:
    return Numerics(dtype or training_dtype(config, _device(module)), tf32=config.accelerate)


@dataclass(frozen=True)
class Frozen:
    """What to compute with instead of tokenizer and world model while they do not learn; None: themselves."""

    tokenizer: FrozenCopy | None
    world_model: FrozenCopy | None

    def refresh(self) -> None:
        """Take over what both have learned since."""
        for frozen in (self.tokenizer, self.world_model):
            if frozen:
                frozen.refresh()


def freeze(config: IRISConfig, models: Models) -> Frozen:
    """Copies in the precision of training, where that is another than the models' own; on a CPU in another layout."""
    device = _device(models.tokenizer)
    dtype = training_dtype(config, device)
    tokenizer = world_model = None
    if dtype != torch.float32 or (config.accelerate and device.type == "cpu"):
        tokenizer = FrozenCopy(models.tokenizer, lambda module: cast(Tokenizer, module).inference_copy(dtype))
    if dtype != torch.float32:
        world_model = FrozenCopy(models.world_model, lambda module: copy.deepcopy(module).to(dtype))
    return Frozen(tokenizer, world_model)


def build_acting(config: IRISConfig, models: Models) -> Policy:
    """The policy that collects, in the precision of training."""
    return Policy(models.tokenizer, models.actor_critic, freeze(config, models).tokenizer)


def build_dynamics(models: Models, frozen: Frozen) -> Dynamics:
    """The dream that the actor-critic is trained in."""
    tokenizer, world_model = frozen.tokenizer, frozen.world_model
    return Dynamics(
        cast(Tokenizer, tokenizer.copy) if tokenizer else models.tokenizer,
        cast(WorldModel, world_model.copy) if world_model else models.world_model,
    )


def build_imagination(config: IRISConfig, models: Models, frozen: Frozen, generator: torch.Generator) -> Imagination:
    """Rollouts of the actor in the dream; on a GPU as one CUDA graph."""
    dynamics = build_dynamics(models, frozen)
    imagination = imagine(dynamics, models.actor_critic, horizon=config.imagination_horizon, generator=generator)
    if config.accelerate and dynamics.device.type == "cuda":
        return Captured(imagination, graphs=CUDAGraphs(dynamics.device), generators=[generator])
    return imagination


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _autoencoder_learner(config: IRISConfig, models: Models) -> Learner:
    parts = config.accumulate_gradients
    return Learner(
        "autoencoder",
        models.tokenizer,
        torch.optim.Adam(
            models.tokenizer.parameters(),
            config.autoencoder_learning_rate,
            (0.9, config.autoencoder_adam_beta2),
            fused=_fused(models.tokenizer),
        ),
        autoencoder_loss(models.tokenizer, config.autoencoder_batch_size),
        LearnerPlan(
            start_after=config.start_autoencoder_after,
            slow_after=config.slow_autoencoder_after,
            stop_after=config.stop_autoencoder_after,
            first_updates=config.autoencoder_first_updates,
            updates_per_epoch=config.autoencoder_updates_per_epoch,
            settled_updates=config.settled_autoencoder_updates,
            last_factor=config.settled_autoencoder_factor,
            batch_size=config.autoencoder_batch_size,
            segment_length=1,
            align="start",
            hard_share=config.hard_examples,
        ),
        max_gradient_norm=config.max_gradient_norm,
        numerics=_numerics(config, models.tokenizer),
        loss_parts=autoencoder_parts(models.tokenizer, config.autoencoder_batch_size, parts) if parts > 1 else None,
        max_bad_updates=config.max_bad_updates,
    )


def _world_model_learner(config: IRISConfig, models: Models, cache: FrameCache) -> Learner:
    parts = config.accumulate_gradients
    return Learner(
        "world_model",
        models.world_model,
        _world_model_optimizer(config, models.world_model),
        world_model_loss(cache, models.world_model),
        LearnerPlan(
            start_after=config.start_transformer_after,
            stop_after=None,
            first_updates=config.transformer_first_updates,
            updates_per_epoch=config.transformer_updates_per_epoch,
            batch_size=config.transformer_batch_size,
            segment_length=config.transformer_timesteps,
            align="start",
        ),
        max_gradient_norm=config.max_gradient_norm,
        loss_parts=world_model_parts(cache, models.world_model, parts) if parts > 1 else None,
        numerics=_numerics(config, models.world_model),
        max_bad_updates=config.max_bad_updates,
    )


def _world_model_optimizer(config: IRISConfig, world_model: WorldModel) -> torch.optim.AdamW:
    groups = world_model.weight_decay_groups(config.transformer_weight_decay)
    learning_rate, fused = config.transformer_learning_rate, _fused(world_model)
    if config.transformer_optimizer == "muon":
        inside = (parameter for block in world_model.transformer.blocks for parameter in block.parameters())
        matrices = [parameter for parameter in inside if parameter.ndim == 2]
        return Muon(groups, learning_rate, matrices=matrices, fused=fused)
    return torch.optim.AdamW(groups, learning_rate, fused=fused)


def _actor_critic_learner(
    config: IRISConfig,
    models: Models,
    cache: FrameCache,
    streams: RandomStreams,
    frozen: Frozen,
    replay: Replay | None,
    random_rows: Callable[[], int],
) -> Learner:
    parts = config.accumulate_gradients
    imagination = build_imagination(config, models, frozen, streams.imagining)
    if config.novelty_weight:
        assert replay is not None, "what is novel is counted in a replay"
        novelty = Novelty(cache, replay, config.novelty_weight, unseen_is_novel=config.unseen_is_novel)
        imagination = with_novelty(imagination, novelty)
    dream = dreaming(cache, imagination, models.actor_critic, parts=parts, refresh=frozen.refresh)
    if config.imitation_share:
        assert replay is not None, "what is imitated lies in a replay"
        dream = with_imitation(dream, build_imitation(config, models, cache, streams, replay, random_rows))
    objective = partial(
        models.actor_critic.loss,
        discount=config.discount,
        lambda_=config.td_lambda,
        entropy_weight=config.entropy_weight,
        learn_after_end=config.learn_after_end,
        clip_range=config.clip_range if config.actor_critic_passes > 1 else None,
    )
    return Learner(
        "actor_critic",
        models.actor_critic,
        torch.optim.Adam(
            models.actor_critic.parameters(), config.actor_critic_learning_rate, fused=_fused(models.actor_critic)
        ),
        actor_critic_loss(objective),
        LearnerPlan(
            start_after=config.start_actor_critic_after,
            stop_after=None,
            first_updates=config.actor_critic_first_updates,
            updates_per_epoch=config.actor_critic_updates_per_epoch,
            batch_size=config.actor_critic_batch_size,
            segment_length=config.burn_in + 1,
            align="end",
            before_rewards=config.dreams_before_rewards,
            lead=config.imagination_horizon,
            passes=config.actor_critic_passes,
        ),
        max_gradient_norm=config.max_gradient_norm,
        numerics=_numerics(config, models.actor_critic, dtype=torch.float32),
        prepare=dream,
        loss_parts=actor_critic_parts(objective, parts) if parts > 1 else None,
        max_bad_updates=config.max_bad_updates,
    )


def build_imitation(
    config: IRISConfig,
    models: Models,
    cache: FrameCache,
    streams: RandomStreams,
    replay: Replay,
    random_rows: Callable[[], int] = lambda: 0,
) -> Imitation:
    """What the actor-critic learns from beside dreams, where the config has it."""
    return Imitation(
        cache,
        replay,
        models.actor_critic,
        rows=config.lived_rows,
        best=config.imitated_episodes,
        random_rows=random_rows,
        burn_in=config.burn_in,
        horizon=config.imagination_horizon,
        generator=streams.sampling,
        parts=config.accumulate_gradients,
    )


def _fused(module: nn.Module) -> bool | None:
    """Whether an optimizer has to be fused: on a GPU, where `Learner` skips bad updates without waiting for it."""
    return True if next(module.parameters()).device.type != "cpu" else None


SAVED_START_FRAMES = 256
"""Frames at most that are saved with an agent, for its dreams to begin at."""


def draw_start_frames(replay: Replay) -> Tensor | None:
    """The frames (S, 3, 64, 64) uint8 that are saved with an agent; None from an empty replay.

    Drawn from the number of stored rows, so no random stream of the training is touched.
    """
    if not len(replay):
        return None
    count = min(SAVED_START_FRAMES, len(replay))
    return replay_starts(replay)(count, np.random.default_rng(len(replay))).cpu()


def replay_starts(replay: Replay) -> Callable[[int, np.random.Generator], Tensor]:
    """Where dreams begin in training: at the steps that the replay samples."""

    def draw(count: int, generator: np.random.Generator) -> Tensor:
        return replay.sample_segments(count, 1, generator=generator, align="start").frames[:, 0]

    return draw


def build_dream(
    models: Models, num_envs: int, *, env_id: str | None, start_frames: Any, **keywords: Any
) -> DreamVectorEnv:
    """The dream of an agent's networks, at the pace of `env_id`; `keywords` are those of `DreamVectorEnv`."""
    dynamics = Dynamics(models.tokenizer, models.world_model)
    env = DreamVectorEnv(dynamics, num_envs, start_frames=checked_starts(start_frames), **keywords)
    env.metadata["render_fps"] = frames_per_second(env_id)
    return env


def checked_starts(start_frames: Any) -> Any:
    """Raise `UsageError` where there is nothing for a dream to start from."""
    if start_frames is None:
        raise UsageError("start_frames=None: nothing was collected or saved that a dream could start from; give frames")
    return start_frames


UNTRAINED = {
    "autoencoder": "its dreams are noise",
    "world_model": "its dreams are noise",
    "actor_critic": "it acts at random",
}
"""What is to be expected of an agent one of whose components has had no update."""


def untrained(updates: Mapping[str, int]) -> list[str]:
    """A sentence for each component that has never been updated; `updates` counts by component."""
    return [
        f"the {component} of this agent has had no update at all: {consequence}"
        for component, consequence in UNTRAINED.items()
        if not updates.get(component, 0)
    ]


def warn_of_untrained(updates: Mapping[str, int], stacklevel: int = 3) -> None:
    """Warn of each component that has never been updated; `updates` counts by component."""
    for sentence in untrained(updates):
        warnings.warn(sentence, stacklevel=stacklevel)

"""Read the published agent's checkpoints: one table of names, sizes read off the tensors, nothing executed."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from iris_gym.assembly import create_models
from iris_gym.config import IRISConfig
from iris_gym.envs import make_vec_env, to_frames
from iris_gym.errors import UsageError
from iris_gym.hub import download, is_hub_file
from iris_gym.training.checkpoint import Snapshot, module_tensors
from iris_gym.types import FRAME_SHAPE, FRAME_SIZE
from iris_gym.untrusted.torch_file import load_torch_file

RESIDUAL_BLOCKS = {
    "tokenizer.encoder.level{i}.residual{j}": "tokenizer.encoder.down.{i}.block.{j}",
    "tokenizer.decoder.level{i}.residual{j}": "tokenizer.decoder.up.{i}.block.{j}",
    "tokenizer.{coder}.middle.residual{j}": "tokenizer.{coder}.mid.block_{j}",
}
ATTENTIONS = {
    "tokenizer.encoder.level{i}.attention{j}": "tokenizer.encoder.down.{i}.attn.{j}",
    "tokenizer.decoder.level{i}.attention{j}": "tokenizer.decoder.up.{i}.attn.{j}",
    "tokenizer.{coder}.middle.attention{j}": "tokenizer.{coder}.mid.attn_{j}",
}
IN_RESIDUAL_BLOCKS = {"layers.0": "norm1", "layers.2": "conv1", "layers.3": "norm2", "layers.5": "conv2"}
IN_ATTENTIONS = {"norm": "norm", "query_key_value": "<q k v>", "projection": "proj_out"}

LAYERS = {
    **{f"{o}.{a}": f"{t}.{b}" for o, t in RESIDUAL_BLOCKS.items() for a, b in IN_RESIDUAL_BLOCKS.items()},
    **{f"{o}.{a}": f"{t}.{b}" for o, t in ATTENTIONS.items() for a, b in IN_ATTENTIONS.items()},
    "tokenizer.{coder}.first": "tokenizer.{coder}.conv_in",
    "tokenizer.encoder.downsample{i}.convolution": "tokenizer.encoder.down.{i}.downsample.conv",
    "tokenizer.decoder.upsample{i}.convolution": "tokenizer.decoder.up.{i}.upsample.conv",
    "tokenizer.{coder}.norm": "tokenizer.{coder}.norm_out",
    "tokenizer.{coder}.last": "tokenizer.{coder}.conv_out",
    "tokenizer.encoder.to_codes": "tokenizer.pre_quant_conv",
    "tokenizer.decoder.from_codes": "tokenizer.post_quant_conv",
    "world_model.transformer.position_embedding": "world_model.pos_emb",
    "world_model.action_embedding": "world_model.embedder.embedding_tables.0",
    "world_model.frame_embedding": "world_model.embedder.embedding_tables.1",
    "world_model.transformer.blocks.{i}.attention_norm": "world_model.transformer.blocks.{i}.ln1",
    "world_model.transformer.blocks.{i}.attention.query_key_value": (
        "world_model.transformer.blocks.{i}.attn.<query key value>"
    ),
    "world_model.transformer.blocks.{i}.attention.projection": "world_model.transformer.blocks.{i}.attn.proj",
    "world_model.transformer.blocks.{i}.mlp_norm": "world_model.transformer.blocks.{i}.ln2",
    "world_model.transformer.blocks.{i}.mlp.{j}": "world_model.transformer.blocks.{i}.mlp.{j}",
    "world_model.transformer.norm": "world_model.transformer.ln_f",
    "world_model.frame_head.{i}": "world_model.head_observations.head_module.{i}",
    "world_model.reward_head.{i}": "world_model.head_rewards.head_module.{i}",
    "world_model.end_head.{i}": "world_model.head_ends.head_module.{i}",
    "actor_critic.convolutions.0": "actor_critic.conv1",
    "actor_critic.convolutions.3": "actor_critic.conv2",
    "actor_critic.convolutions.6": "actor_critic.conv3",
    "actor_critic.convolutions.9": "actor_critic.conv4",
    "actor_critic.actor": "actor_critic.actor_linear",
    "actor_critic.critic": "actor_critic.critic_linear",
}
NAMES = {
    **{f"{ours}.{{kind}}": f"{theirs}.{{kind}}" for ours, theirs in LAYERS.items()},
    "tokenizer.quantizer.codebook": "tokenizer.embedding.weight",
    "actor_critic.lstm.{kind}_l0": "actor_critic.lstm.{kind}",
}
"""Our tensor → the published one. {i} is the same on both sides; <q k v> are three tensors that make up one of ours,
stacked along their first axis."""

DROPPED = (
    r"tokenizer\.lpips\..+",  # the perceptual network, which is fetched where it is needed
    r"world_model\.transformer\.blocks\.\d+\.attn\.mask",  # causality, which is the same everywhere
    r"world_model\.head_\w+\.indices",  # where a head is read, which follows from the layout of a timestep
)
"""Published tensors without a counterpart."""

DOWNSAMPLE = "tokenizer.encoder.down.{}.downsample.conv.weight"
BLOCK = "world_model.transformer.blocks.{}.ln1.weight"


Agent = TypeVar("Agent", bound="PublishedAgent")


class PublishedAgent:
    """`from_published`, for an agent that a `Snapshot` can be made into."""

    @classmethod
    def _from_snapshot(cls: type[Agent], snapshot: Snapshot, source: str | Path, env: Any, **arguments: Any) -> Agent:
        raise NotImplementedError

    start_frames: torch.Tensor | None

    def save_checkpoint(self) -> None:
        raise NotImplementedError

    @classmethod
    def from_published(
        cls: type[Agent],
        path: str | Path,
        env: GymEnv | str,
        transformer_heads: int = 4,
        device: torch.device | str = "auto",
        *,
        run_dir: str | Path | None = None,
        perceptual_weight: float = 1.0,
        **arguments: Any,
    ) -> Agent:
        """An agent with the weights of a published checkpoint, a file or `hf://owner/repository/path`.

        With `run_dir` it is an ordinary run; further learning takes its schedule from the first epoch on.
        `perceptual_weight=0` lets the autoencoder learn without LPIPS. The other arguments are the constructor's. For
        the checkpoint and its errors see `read_published`; an environment of other actions is refused, too.
        """
        snapshot = read_published(path, transformer_heads)
        snapshot.state["config"]["perceptual_weight"] = perceptual_weight
        starts = explored_frames(env) if isinstance(env, str) else None
        arguments |= dict(device=device, run_dir=run_dir, _settings={"imported": True})
        agent = cls._from_snapshot(snapshot, path, env, **arguments)
        del snapshot  # and with it the pages of the file that were read
        agent.start_frames = starts
        agent.save_checkpoint()
        return agent


def read_published(path: str | Path, transformer_heads: int = 4) -> Snapshot:
    """A published checkpoint as a snapshot of ours that holds weights alone.

    Args:
        path: the file `last.pt` of a run, or a file on the hub as `hf://owner/repository/path`.
        transformer_heads: of the world model. No tensor tells it: keys of 4 heads of 64 are keys of 2 of 128.

    Returns:
        A snapshot whose weights are float32 and still lie in the file where they can: copy them before it changes.

    Raises:
        UsageError: the file cannot be had, is no such checkpoint, or a tensor is missing, unexpected or misshapen.
    """
    source = repr(str(path))
    published = _kept(load_torch_file(download(str(path)) if is_hub_file(path) else Path(path), source))
    try:
        config, num_actions = _sizes(published, transformer_heads)
        config.validate()
        weights = _our_tensors(published, config, num_actions)
    except UsageError as error:
        raise UsageError(f"{source} is no checkpoint of the published agent: {error}") from error
    state = {
        "config": config.to_dict(),
        "env": None,
        "num_actions": num_actions,
        "observation_shape": list(FRAME_SHAPE),
        "n_envs": 1,
        "seed": None,
        "num_timesteps": 0,  # of further learning
        "steps_before": config.max_env_steps,
        "updates": _updates(config),
    }
    return Snapshot(state, weights, training={})


def explored_frames(env_id: str, count: int = 256) -> torch.Tensor:
    """Every other frame (count, 3, 64, 64) uint8 of random play, the same at every call.

    The dreams of an imported agent begin there until it has collected frames of its own.
    """
    env = make_vec_env(env_id, 1, seed=0)
    actions = np.random.default_rng(0).integers(env.action_space.n, size=(2 * count, 1))  # type: ignore[attr-defined]
    env.reset()
    frames = [to_frames(np.asarray(env.step(action)[0])) for action in actions]
    env.close()
    return torch.from_numpy(np.concatenate(frames[::2]))


def published_names(ours: str) -> list[str]:
    """The published tensors that one of ours, such as `world_model.frame_head.0.bias`, is made of, in their order."""
    for pattern, theirs in NAMES.items():
        if match := _pattern(pattern).fullmatch(ours):
            return _parts(theirs.format(**match.groupdict()))
    raise KeyError(ours)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^.]+)", re.escape(template)))


def _parts(name: str) -> list[str]:
    match = re.fullmatch(r"(.*)<(.*)>(.*)", name)
    return [match[1] + part + match[3] for part in match[2].split()] if match else [name]


def _kept(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in published.items() if not re.fullmatch("|".join(DROPPED), name)}


def _sizes(published: Mapping[str, Tensor], transformer_heads: int) -> tuple[IRISConfig, int]:
    """The config that tensors of these shapes need, and the number of actions."""

    def size(name: str, axis: int) -> int:
        if name not in published:
            raise UsageError(f"it lacks the tensor {name!r}")
        if published[name].ndim <= axis:
            raise UsageError(f"its tensor {name!r} has shape {tuple(published[name].shape)}")
        return published[name].shape[axis]

    downsamplings = _count(published, DOWNSAMPLE)
    tokens_per_frame = (FRAME_SIZE // 2**downsamplings) ** 2
    positions = size("world_model.pos_emb.weight", 0)
    if positions % (tokens_per_frame + 1):
        raise UsageError(
            f"its {positions} positions are no multiple of a timestep of {tokens_per_frame} frame tokens and an action"
        )
    config = IRISConfig.paper(
        encoder_downsamplings=downsamplings,
        tokens_per_frame=tokens_per_frame,
        vocab_size=size("tokenizer.embedding.weight", 0),
        token_embedding_dim=size("tokenizer.embedding.weight", 1),
        encoder_channels=size("tokenizer.encoder.conv_in.weight", 0),
        encoder_output_channels=size("tokenizer.encoder.conv_out.weight", 0),
        transformer_layers=_count(published, BLOCK),
        transformer_embed_dim=size("world_model.pos_emb.weight", 1),
        transformer_heads=transformer_heads,
        transformer_timesteps=positions // (tokens_per_frame + 1),
        lstm_dim=size("actor_critic.lstm.weight_hh", 1),
    )
    return config, size("actor_critic.actor_linear.weight", 0)


def _updates(config: IRISConfig) -> dict[str, int]:
    """How often each component of a published agent learned, by its schedule (Micheli et al. 2023, appendix A)."""
    epochs = config.total_epochs
    return {
        "autoencoder": (epochs - config.start_autoencoder_after) * config.autoencoder_updates_per_epoch,
        "world_model": (epochs - config.start_transformer_after) * config.transformer_updates_per_epoch,
        "actor_critic": (epochs - config.start_actor_critic_after) * config.actor_critic_updates_per_epoch,
    }


def _count(names: Iterable[str], template: str) -> int:
    """How many of `template` with 0, 1, … in it there are."""
    names = set(names)
    return next(count for count in range(len(names) + 1) if template.format(count) not in names)


def _our_tensors(published: dict[str, Tensor], config: IRISConfig, num_actions: int) -> dict[str, Tensor]:
    """Every tensor of our models, made of published ones. All of these have to be used, and to fit."""
    with torch.device("meta"):  # names and shapes alone, no memory
        ours = module_tensors(create_models(config, num_actions).by_name())
    names = {name: published_names(name) for name in ours}
    unused = dict(published)
    for name, value in ours.items():
        shape = (value.shape[0] // len(names[name]), *value.shape[1:])
        for part in names[name]:
            if part not in unused:
                raise UsageError(f"it lacks the tensor {part!r}")
            found = unused.pop(part)
            if tuple(found.shape) != shape or not found.is_floating_point():
                raise UsageError(
                    f"its tensor {part!r} has shape {tuple(found.shape)} of {found.dtype}, "
                    f"the others ask for {shape} of real numbers"
                )
    if unused:
        raise UsageError(f"it has a tensor {next(iter(unused))!r}, which the published agent has not")
    return {name: _joined([published[part] for part in parts]).float() for name, parts in names.items()}


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)

"""The largest hyperparameters that are taken: far above anything useful, far below what fills a machine's memory.

Configs travel with agents between strangers. Networks are only built of a config within these limits.
"""

from collections.abc import Mapping
from typing import Any

from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import shown

MAX_PARAMETERS = 2_000_000_000
"""Of all networks together: 8 GB of weights, and twice as much again for the optimizers."""

LARGEST: dict[str, float] = {
    "max_env_steps": 100_000_000,
    "vocab_size": 65_536,
    "token_embedding_dim": 8_192,
    "encoder_channels": 4_096,
    "encoder_output_channels": 8_192,
    "dead_code_threshold": 1_000_000_000,
    "autoencoder_batch_size": 65_536,
    "autoencoder_updates_per_epoch": 1_000_000,
    "autoencoder_first_updates": 1_000_000,
    "settled_autoencoder_updates": 1_000_000,
    "transformer_layers": 256,
    "transformer_embed_dim": 16_384,
    "transformer_heads": 1_024,
    "transformer_timesteps": 1_024,
    "transformer_batch_size": 65_536,
    "transformer_updates_per_epoch": 1_000_000,
    "transformer_first_updates": 1_000_000,
    "actor_channels": 4_096,
    "lstm_dim": 16_384,
    "imagination_horizon": 10_000,
    "burn_in": 10_000,
    "actor_critic_batch_size": 65_536,
    "actor_critic_updates_per_epoch": 1_000_000,
    "actor_critic_first_updates": 1_000_000,
    "actor_critic_passes": 1_000,
    "env_steps_per_epoch": 100_000_000,
    "total_epochs": 1_000_000,
    "start_autoencoder_after": 1_000_000,
    "start_transformer_after": 1_000_000,
    "start_actor_critic_after": 1_000_000,
    "slow_autoencoder_after": 1_000_000,
    "stop_autoencoder_after": 1_000_000,
    "eval_interval": 1_000_000,
    "eval_episodes": 100_000,
    "checkpoint_interval": 1_000_000,
    "keep_checkpoints": 1_000_000,
    "accumulate_gradients": 65_536,
    "max_bad_updates": 1_000_000,
    "max_eval_steps": 100_000_000,
    "random_steps": 100_000_000,
}
"""Whole numbers, by field."""

LARGEST_REAL = 1e9
"""Of every field that is no whole number."""

LONGEST_TEXT = 200
"""Characters."""


def check_limits(values: Mapping[str, Any]) -> None:
    """Raise `UsageError` for the first of the fields that is too large."""
    for name, value in values.items():
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise UsageError(f"{name}={shown(value)} has {len(value):,} characters; at most {LONGEST_TEXT} are taken")
        if not isinstance(value, str) and value is not None and value > (most := LARGEST.get(name, LARGEST_REAL)):
            raise UsageError(f"{name}={shown(value)} must be at most {most:,.0f}")


def check_parameters(values: Mapping[str, Any]) -> None:
    """Raise `UsageError` where the networks would be too large together, though each field is within its limit."""
    parts = estimated_parameters(values)
    if sum(parts.values()) > MAX_PARAMETERS:
        fields = max(parts, key=lambda names: parts[names]).split()
        raise UsageError(
            f"{', '.join(f'{name}={values[name]}' for name in fields)} make {parts[' '.join(fields)]:,} parameters; "
            f"{MAX_PARAMETERS:,} at most are built, so lower one of them"
        )


def estimated_parameters(values: Mapping[str, Any]) -> dict[str, int]:
    """About how many parameters and buffers each part of the networks has, by the fields that decide it."""
    width, vocab, code = (values[name] for name in ("transformer_embed_dim", "vocab_size", "token_embedding_dim"))
    channels, output = values["encoder_channels"], values["encoder_output_channels"]
    tokens = values["transformer_timesteps"] * (values["tokens_per_frame"] + 3)
    lstm = values["lstm_dim"]
    levels = values["encoder_downsamplings"] + 1
    published = values["autoencoder"] == "vqgan"
    convolutions = (120 * levels + 100 if published else 70 * levels) * channels**2
    ends = (18 * channels + 2 * code) * output if published else 2 * channels * code
    return {
        "transformer_layers transformer_embed_dim": (12 * values["transformer_layers"] + 3) * width**2,
        "transformer_timesteps transformer_embed_dim": tokens * width,
        "vocab_size transformer_embed_dim": 2 * vocab * width,
        "vocab_size token_embedding_dim": 2 * vocab * code,
        "encoder_channels encoder_output_channels token_embedding_dim": convolutions + ends,
        "actor_channels lstm_dim": 4 * lstm * (32 * values["actor_channels"] + lstm)
        + 70 * values["actor_channels"] ** 2,
    }

"""What the world model says of real stretches: told the truth at every step, or left alone with the actions.

Letters as in `stretches`, and V codes. Results lie on the CPU as NumPy arrays or tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.evaluation.stretches import Stretches
from iris_gym.functional import sample_categorical
from iris_gym.imagination.dynamics import DreamState, Dynamics
from iris_gym.imagination.policy import Policy
from iris_gym.models.world_model import WorldModel

TOKENS_AT_A_TIME = 8192
"""That the transformer reads at once."""

ROWS = 64
"""Dreams that are dreamt at once."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is said of step 1, 2, …, M - 1 by a world model that has really seen what was before each."""

    token_accuracy: NDArray[np.float64]  # (S, M - 1), share of the next frame's tokens whose likeliest guess is right
    nats: NDArray[np.float64]  # (S, M - 1), minus the log-likelihood of the next frame, a token
    reward_probabilities: NDArray[np.float64]  # (S, M - 1, 3), of -1, 0 and 1
    end_probability: NDArray[np.float64]  # (S, M - 1)


@dataclass(frozen=True, slots=True)
class Dream:
    """What a dream made of H steps."""

    tokens: Tensor  # (S, H, K) int64, of the frames after each step
    rewards: NDArray[np.int64]  # (S, H)
    ends: NDArray[np.bool_]  # (S, H); the dream goes on after one
    nats: NDArray[np.float64]  # (S, H), minus the log-probability of its own frames, a token


@inference
def forecast(
    world_model: WorldModel,
    tokens: Tensor,
    actions: Tensor,
    rewards: Tensor,
    ends: Tensor,
    *,
    overflow_context: int,
) -> Forecast:
    """Predict each step of stretches from the real ones before it.

    The model reads exactly what a dream in the same place would have kept: when its timesteps are full it begins
    anew with the last `overflow_context` frames.

    Args:
        tokens: (S, M, K) int64.
        actions, rewards, ends: (S, M - 1), rewards as signs; those of the steps between the frames.
    """
    device = world_model.frame_embedding.weight.device
    timesteps, fresh = world_model.timesteps, world_model.timesteps - overflow_context
    rows, frames, _ = tokens.shape
    steps = np.arange(1, frames)
    window = np.where(steps < timesteps, 0, 1 + (steps - timesteps) // fresh)
    place = torch.from_numpy(steps - window * fresh)
    index = torch.arange(0, int(window[-1]) + 1)[:, None] * fresh + torch.arange(timesteps)
    read_tokens = tokens[:, index.clamp(max=frames - 1)].flatten(0, 1)
    read_steps = [
        values[:, index.clamp(max=frames - 2)].flatten(0, 1) for values in (actions, rewards + 1, ends.long())
    ]
    batch = max(TOKENS_AT_A_TIME // (timesteps * world_model.tokens_per_step), 1)
    parts = [
        _forecast_windows(world_model, *(part.to(device) for part in batched))
        for batched in zip(read_tokens.split(batch), *(values.split(batch) for values in read_steps), strict=True)
    ]
    columns = []
    for column in zip(*parts, strict=True):
        whole = torch.cat(column).view(rows, len(index), timesteps - 1, *column[0].shape[2:])
        columns.append(whole[:, torch.from_numpy(window), place - 1].double().numpy())
    return Forecast(*columns)


def _forecast_windows(
    world_model: WorldModel, tokens: Tensor, actions: Tensor, reward_classes: Tensor, ends: Tensor
) -> tuple[Tensor, ...]:
    """Columns of a `Forecast` for whole windows (B, L, …) of the world model's L timesteps: (B, L - 1, …)."""
    predictions = world_model(tokens, world_model.tails(actions, reward_classes, ends))
    per_frame = tokens.shape[2]
    targets = tokens[:, 1:]
    logits = predictions.frame_tokens[:, per_frame - 1 : -1].float().unflatten(1, targets.shape[1:])
    nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)
    return (
        (logits.argmax(-1) == targets).float().mean(-1).cpu(),
        nats.mean(-1).cpu(),
        predictions.rewards[:, :-1].float().softmax(-1).cpu(),
        predictions.ends[:, :-1].float().softmax(-1)[..., 1].cpu(),
    )


@inference
def dream_of_actions(dynamics: Dynamics, stretches: Stretches, *, generator: torch.Generator) -> Dream:
    """Dreams that start where the stretches do and take the same actions, past the ends they predict."""
    device, dreams = dynamics.device, []
    for state, rows in _starts(dynamics, stretches):
        actions = stretches.after_start(stretches.actions)[rows].to(device)
        steps = []
        for action in actions.unbind(1):
            state, outcome = dynamics.advance(state, action, generator=generator, log_probs=True)
            steps.append((state.frame_tokens[:, -1], outcome.reward, outcome.end, outcome.log_prob))
        dreams.append(steps)
    return _collect(dreams)


@inference
def dream_of_policy(
    dynamics: Dynamics,
    policy: Policy,
    stretches: Stretches,
    *,
    memories: tuple[Tensor, Tensor],
    temperature: float,
    generator: torch.Generator,
) -> Dream:
    """Dreams that start where the stretches do and in which the policy acts.

    `memories` (S, lstm_dim) are what the policy remembers before the frames at which they start.
    """
    dreams = []
    for state, rows in _starts(dynamics, stretches):
        memory = memories[0][rows], memories[1][rows]
        steps = []
        for _ in range(stretches.horizon):
            logits, memory = policy.actor_critic.act(dynamics.decode(state), memory)
            action = sample_categorical(logits, temperature=temperature, generator=generator)
            state, outcome = dynamics.advance(state, action, generator=generator, log_probs=True)
            steps.append((state.frame_tokens[:, -1], outcome.reward, outcome.end, outcome.log_prob))
        dreams.append(steps)
    return _collect(dreams)


def _starts(dynamics: Dynamics, stretches: Stretches) -> Iterator[tuple[DreamState, slice]]:
    """Dreams at the starts, some at a time, and which rows of the stretches these are."""
    context, device = stretches.context, dynamics.device
    tails = dynamics.world_model.tails(stretches.actions, stretches.rewards + 1, stretches.ends.long())
    for first in range(0, len(stretches.starts), ROWS):
        rows = slice(first, first + ROWS)
        frame_tokens, between = stretches.tokens[rows, :context], tails[rows, : context - 1]
        yield dynamics.start_from_history(frame_tokens.to(device), between.to(device)), rows


def _collect(dreams: list[list[tuple]]) -> Dream:
    """Batches of dreams, each a list over time of (tokens, reward, end, log-probability), as one."""
    columns = [
        torch.cat([torch.stack([step[column] for step in steps], dim=1).cpu() for steps in dreams])
        for column in range(4)
    ]
    tokens, rewards, ends, log_probs = columns
    return Dream(tokens, rewards.long().numpy(), ends.numpy(), -log_probs.double().numpy() / tokens.shape[-1])

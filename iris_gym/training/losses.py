"""What each component learns from a segment of real experience. Closures, so that the trainer knows no component."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_gym.functional import sample_categorical, slices, unit_frames
from iris_gym.imagination.dynamics import DreamState, Dynamics
from iris_gym.imagination.rollout import rollout
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.hard_examples import mine_hard_examples
from iris_gym.types import DreamStep, RecurrentState, Segment, Trajectory

Loss = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]
"""What an update learns from, a segment or a dream that begins there → (scalar to minimise, detached metrics)."""

Dream = tuple[Trajectory, RecurrentState]
"""A trajectory, and the actor's state before its first frame."""


def autoencoder_loss(tokenizer: Tokenizer, batch_size: int) -> Loss:
    """Reconstruct single frames: segments of length 1, `batch_size` or as many as `mine_hard_examples` needs."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        frames = unit_frames(segment.frames[:, 0])
        return tokenizer.loss(mine_hard_examples(tokenizer, frames, batch_size, at_once=batch_size))

    return loss


def world_model_loss(cache: FrameCache, world_model: WorldModel) -> Loss:
    """Predict tokens, rewards and ends of segments that pad right."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = cache.tokens(segment)
        return world_model.loss(tokens, segment.actions, segment.rewards, segment.ends, segment.mask)

    return loss


Imagination = Callable[[Tensor, Tensor, Tensor, Tensor], Trajectory]
"""Start frames as tokens (B, K) and pictures (B, 3, 64, 64), hidden and cell (B, lstm_dim) → what the actor does."""


Objective = Callable[[Trajectory, RecurrentState], tuple[Tensor, dict[str, Tensor]]]
"""`ActorCritic.loss` with its hyperparameters given."""


def actor_critic_loss(objective: Objective) -> Loss:
    """What the actor-critic learns from a dream."""

    def loss(dream: Dream) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(*dream)

    return loss


def dreaming(
    cache: FrameCache,
    imagination: Imagination,
    actor_critic: ActorCritic,
    *,
    parts: int = 1,
    refresh: Callable[[], None] = lambda: None,
) -> Callable[[Segment], Dream]:
    """Act in the dream that starts at the last frame of segments that pad left; the frames before burn in the LSTM.

    These frames are gone through in so many `parts`, which takes less memory. `refresh` brings what `imagination`
    computes with up to date.
    """

    def dream(segment: Segment) -> Dream:
        refresh()
        columns = []
        for piece in slices(len(segment.mask), parts):
            part = segment.take(piece)
            pictures = cache.reconstructions(part)
            columns.append((pictures[:, -1], *actor_critic.burn_in(pictures[:, :-1], part.mask[:, :-1])))
        picture, hidden, cell = (torch.cat(column) for column in zip(*columns, strict=True))
        tokens = cache.tokens(segment.steps(slice(-1, None)))[:, 0]
        return imagination(tokens, picture, hidden, cell), (hidden, cell)

    return dream


def imagine(dynamics: Dynamics, actor_critic: ActorCritic, *, horizon: int, generator: torch.Generator) -> Imagination:
    """Let the actor act in dreams; see `rollout`. What it returns asks nothing of the device."""

    def act(frame: Tensor, state: RecurrentState) -> tuple[Tensor, Tensor, RecurrentState]:
        logits, state = actor_critic.act(frame, state)
        action = sample_categorical(logits, generator=generator)
        return action, F.log_softmax(logits, -1).gather(-1, action[:, None])[:, 0], state

    def step(state: DreamState, action: Tensor) -> tuple[DreamState, DreamStep]:
        return dynamics.step(state, action, generator=generator)

    def imagination(tokens: Tensor, frame: Tensor, hidden: Tensor, cell: Tensor) -> Trajectory:
        start = dynamics.start_from_tokens(tokens)
        return rollout(step, act, start, frame, tokens, (hidden, cell), horizon=horizon)

    return imagination

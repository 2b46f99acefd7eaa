"""What each component learns from a segment of real experience. Closures, so that the trainer knows no component."""

from collections.abc import Callable

import torch
from torch import Tensor

from iris_gym.functional import sample_categorical, unit_frames
from iris_gym.imagination.dynamics import DreamState, Dynamics
from iris_gym.imagination.rollout import rollout
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.training.frame_cache import FrameCache
from iris_gym.types import RecurrentState, Segment, Trajectory

Loss = Callable[[Segment], tuple[Tensor, dict[str, Tensor]]]
"""segment → (scalar to minimise, detached metrics)."""


def autoencoder_loss(tokenizer: Tokenizer) -> Loss:
    """Reconstruct single frames: segments of length 1."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        return tokenizer.loss(unit_frames(segment.frames[:, 0]))

    return loss


def world_model_loss(cache: FrameCache, world_model: WorldModel) -> Loss:
    """Predict tokens, rewards and ends of segments that pad right."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = cache.tokens(segment)
        return world_model.loss(tokens, segment.actions, segment.rewards, segment.ends, segment.mask)

    return loss


def actor_critic_loss(
    cache: FrameCache,
    dynamics: Dynamics,
    actor_critic: ActorCritic,
    *,
    horizon: int,
    discount: float,
    lambda_: float,
    entropy_weight: float,
    generator: torch.Generator,
) -> Loss:
    """Act in the dream that starts at the last frame of segments that pad left; the frames before burn in the LSTM."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        before, last = segment.steps(slice(None, -1)), segment.steps(slice(-1, None))
        actor_state = actor_critic.burn_in(cache.reconstructions(before), before.mask)
        start = dynamics.start_from_tokens(cache.tokens(last)[:, 0])
        trajectory = imagine(dynamics, actor_critic, start, actor_state, horizon=horizon, generator=generator)
        return actor_critic.loss(
            trajectory, actor_state, discount=discount, lambda_=lambda_, entropy_weight=entropy_weight
        )

    return loss


def imagine(
    dynamics: Dynamics,
    actor_critic: ActorCritic,
    start: DreamState,
    actor_state: RecurrentState,
    *,
    horizon: int,
    generator: torch.Generator,
) -> Trajectory:
    """Let the actor act in dreams that stand at `start`; see `rollout`."""

    def act(frame: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        logits, state = actor_critic.act(frame, state)
        return sample_categorical(logits, generator=generator), state

    return rollout(
        lambda state, action: dynamics.step(state, action, generator=generator),
        act,
        start,
        dynamics.decode(start),
        actor_state,
        horizon=horizon,
    )

"""What each component learns from a segment of real experience. Closures, so that the trainer knows no component."""

from collections.abc import Callable

import torch
from torch import Tensor

from iris_gym.functional import sample_categorical, unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.imagination.policy import Policy
from iris_gym.imagination.rollout import rollout
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.types import RecurrentState, Segment, Trajectory

Loss = Callable[[Segment], tuple[Tensor, dict[str, Tensor]]]
"""segment → (scalar to minimise, detached metrics)."""


def autoencoder_loss(tokenizer: Tokenizer) -> Loss:
    """Reconstruct single frames: segments of length 1."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        return tokenizer.loss(unit_frames(segment.frames[:, 0]))

    return loss


def world_model_loss(tokenizer: Tokenizer, world_model: WorldModel) -> Loss:
    """Predict tokens, rewards and ends of segments that pad right."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            tokens = tokenizer.encode(unit_frames(segment.frames))
        return world_model.loss(tokens, segment.actions, segment.rewards, segment.ends, segment.mask)

    return loss


def actor_critic_loss(
    dynamics: Dynamics,
    policy: Policy,
    *,
    horizon: int,
    discount: float,
    lambda_: float,
    entropy_weight: float,
    generator: torch.Generator,
) -> Loss:
    """Act in the dream that starts at the last frame of segments that pad left; the frames before burn in the LSTM."""

    def loss(segment: Segment) -> tuple[Tensor, dict[str, Tensor]]:
        actor_state = policy.burn_in(segment.frames[:, :-1], segment.mask[:, :-1])
        trajectory = imagine(dynamics, policy, segment.frames[:, -1], actor_state, horizon=horizon, generator=generator)
        return policy.actor_critic.loss(
            trajectory, actor_state, discount=discount, lambda_=lambda_, entropy_weight=entropy_weight
        )

    return loss


def imagine(
    dynamics: Dynamics,
    policy: Policy,
    frames: Tensor,
    actor_state: RecurrentState,
    *,
    horizon: int,
    generator: torch.Generator,
) -> Trajectory:
    """Let the policy act in dreams that start at stored frames (B, 3, 64, 64) uint8; see `rollout`."""

    def act(frame: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        logits, state = policy.actor_critic.act(frame, state)
        return sample_categorical(logits, generator=generator), state

    start = dynamics.start(unit_frames(frames))
    return rollout(
        lambda state, action: dynamics.step(state, action, generator=generator),
        act,
        start,
        dynamics.decode(start),
        actor_state,
        horizon=horizon,
    )

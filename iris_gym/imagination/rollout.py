"""An imagined rollout over two callables."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from iris_gym.types import DreamStep, RecurrentState, Trajectory

State = TypeVar("State")

DynamicsStep = Callable[[State, Tensor], tuple[State, DreamStep]]
"""(state, action (B,) int64) → (next state, what came of it)."""

Actor = Callable[[Tensor, RecurrentState], tuple[Tensor, Tensor, RecurrentState]]
"""(frame (B, 3, 64, 64) in [0, 1], recurrent state) → (action (B,) int64, its log-probability (B,), next state)."""


@torch.no_grad()
def rollout(
    dynamics_step: DynamicsStep[State],
    actor: Actor,
    state: State,
    frame: Tensor,
    tokens: Tensor,
    actor_state: RecurrentState,
    *,
    horizon: int,
) -> Trajectory:
    """Let `actor` act in the dream for `horizon` steps (Micheli et al. 2023, section 2.3).

    `frame` (B, 3, 64, 64), with its `tokens` (B, K), is the one at which the dream `state` stands. A predicted end does
    not stop the rollout; the λ-return is cut there. The last step only bootstraps from its frame's value, so the world
    model is asked `horizon - 1` times.
    """
    frames, actions, log_probabilities, steps = [frame], [], [], []
    for _ in range(horizon - 1):
        action, log_probability, actor_state = actor(frames[-1], actor_state)
        state, step = dynamics_step(state, action)
        frames.append(step.frame)
        actions.append(action)
        log_probabilities.append(log_probability)
        steps.append(step)
    return Trajectory(
        frames=torch.stack(frames, dim=1),
        actions=_with_last_zero(actions),
        rewards=_with_last_zero([step.reward for step in steps]),
        ends=_with_last_zero([step.end for step in steps]),
        tokens=torch.stack([tokens, *(step.tokens for step in steps)], dim=1),
        log_probabilities=_with_last_zero(log_probabilities),
    )


def _with_last_zero(columns: list[Tensor]) -> Tensor:
    return torch.stack([*columns, torch.zeros_like(columns[0])], dim=1)

"""From pixels to actions: reconstruct, remember, choose. One path for collecting, predicting and evaluating."""

from typing import cast

import torch
from torch import Tensor

from iris_gym.accelerate import FrozenCopy, inference
from iris_gym.functional import sample_categorical, unit_frames
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.types import RecurrentState


class Policy:
    """The actor-critic behind the tokenizer: it sees reconstructions in the real environment as in the dream.

    `frozen` is what to reconstruct with instead of the tokenizer itself, whose copy it holds; after the tokenizer has
    learned, `refresh` brings it up to date.
    """

    def __init__(self, tokenizer: Tokenizer, actor_critic: ActorCritic, frozen: FrozenCopy | None = None) -> None:
        self.tokenizer = cast(Tokenizer, frozen.copy) if frozen else tokenizer
        self.actor_critic = actor_critic
        self.frozen = frozen

    def refresh(self) -> None:
        """Take over what the tokenizer has learned since."""
        if self.frozen:
            self.frozen.refresh()

    def initial_state(self, batch: int) -> RecurrentState:
        """The state of `batch` rows that have seen nothing."""
        return self.actor_critic.initial_state(batch)

    @inference
    def burn_in(self, frames: Tensor, mask: Tensor) -> RecurrentState:
        """The state after real frames (B, L, 3, 64, 64) uint8; those with a False `mask` (B, L) leave it unchanged."""
        return self.actor_critic.burn_in(self.tokenizer.reconstruct(unit_frames(frames)), mask)

    @inference
    def logits(self, frames: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Action logits (B, A) at real frames (B, 3, 64, 64) uint8, and the next state."""
        return self.actor_critic.act(self.tokenizer.reconstruct(unit_frames(frames)), state)

    @torch.no_grad()
    def act(
        self,
        frames: Tensor,
        state: RecurrentState,
        *,
        temperature: float = 1.0,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Actions (B,) int64 at real frames (B, 3, 64, 64) uint8, and the next state.

        Actions are drawn from the policy's logits divided by `temperature`; 0 takes the likeliest. With probability
        `epsilon` an action is uniformly random instead.
        """
        logits, state = self.logits(frames, state)
        actions = sample_categorical(logits, temperature=temperature, generator=generator)
        if epsilon:
            random_actions = torch.randint(logits.shape[1], actions.shape, generator=generator, device=actions.device)
            explore = torch.rand(actions.shape, generator=generator, device=actions.device) < epsilon
            actions = torch.where(explore, random_actions, actions)
        return actions, state

"""The learned simulator: frames in, actions in, frames, rewards and ends out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from iris_gym.errors import UsageError
from iris_gym.functional import sample_categorical
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.nn.transformer import KeyValueCache
from iris_gym.types import DreamStep


@dataclass(slots=True)
class DreamState:
    """Where a dream stands: everything that the next step depends on.

    `step` takes a state and returns the next one; it consumes its argument, whose cache tensors live on in the
    result. `clone` a state before a step to branch a dream there.
    """

    frame_tokens: Tensor  # (B, n, K) int64, the last frames that a full context keeps; the current one is the last
    actions: Tensor  # (B, n - 1) int64, the actions between them
    cache: KeyValueCache  # holds all that was read but the last token of the current frame

    def clone(self) -> "DreamState":
        return DreamState(self.frame_tokens, self.actions, self.cache.clone())


class Dynamics:
    """A tokenizer and a world model as a simulator on tensors.

    `overflow_context` says how many frames, with the actions between them, a row keeps when its next step would not
    fit into the transformer; 1 forgets all but the current frame, as the published agent does. Frames and classes
    are sampled with `temperature`; 0 takes the likeliest.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        world_model: WorldModel,
        *,
        overflow_context: int = 1,
        temperature: float = 1.0,
    ) -> None:
        if not 1 <= overflow_context < world_model.timesteps:
            raise UsageError(
                f"overflow_context={overflow_context} must lie between 1 and {world_model.timesteps - 1}: "
                f"the transformer reads {world_model.timesteps} timesteps and needs room for one more"
            )
        self.tokenizer = tokenizer
        self.world_model = world_model
        self.overflow_context = overflow_context
        self.temperature = temperature

    @property
    def num_actions(self) -> int:
        return self.world_model.num_actions

    @torch.no_grad()
    def start(self, frames: Tensor) -> DreamState:
        """Begin one dream a row at real frames (B, 3, 64, 64) in [0, 1]."""
        return self.start_from_tokens(self.tokenizer.encode(frames))

    @torch.no_grad()
    def start_from_tokens(self, tokens: Tensor) -> DreamState:
        """Begin one dream a row at frames given as tokens (B, K) int64."""
        no_actions = tokens.new_empty(tokens.shape[0], 0)
        return self._read(tokens[:, None], no_actions)

    @torch.no_grad()
    def decode(self, state: DreamState) -> Tensor:
        """The frame (B, 3, 64, 64) in [0, 1] at which a dream stands."""
        return self.tokenizer.decode(state.frame_tokens[:, -1])

    @torch.no_grad()
    def step(
        self, state: DreamState, action: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[DreamState, DreamStep]:
        """Take an action (B,) int64 in each row.

        K transformer passes: the last token of the current frame is read together with the action, and every token
        of the next frame but its last one is read to sample the following.
        """
        cache = self._make_room(state)
        logits = self.world_model.step(state.frame_tokens[:, -1, -1], action, cache)
        reward = self._sample(logits.reward, generator).float() - 1
        end = self._sample(logits.end, generator).bool()
        tokens = [self._sample(logits.first_token, generator)]
        while len(tokens) < self.world_model.tokens_per_frame:
            tokens.append(self._sample(self.world_model.next_token(tokens[-1], cache), generator))
        next_tokens = torch.stack(tokens, dim=1)
        following = self._remember(state, action, next_tokens, cache)
        return following, DreamStep(self.tokenizer.decode(next_tokens), reward, end)

    def _sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return sample_categorical(logits, temperature=self.temperature, generator=generator)

    def _read(self, frame_tokens: Tensor, actions: Tensor) -> DreamState:
        cache = self.world_model.transformer.empty_cache(frame_tokens.shape[0])
        self.world_model.read_frames(frame_tokens, actions, cache)
        return DreamState(frame_tokens, actions, cache)

    def _remember(self, state: DreamState, action: Tensor, tokens: Tensor, cache: KeyValueCache) -> DreamState:
        """Append the new frame, and forget the frames that no overflow would bring back."""
        frame_tokens = torch.cat((state.frame_tokens, tokens[:, None]), dim=1)
        actions = torch.cat((state.actions, action[:, None]), dim=1)
        forgotten = max(frame_tokens.shape[1] - self.overflow_context, 0)
        return DreamState(frame_tokens[:, forgotten:], actions[:, forgotten:], cache)

    def _make_room(self, state: DreamState) -> KeyValueCache:
        """Where a row's next step would not fit, read its last `overflow_context` frames again from position 0.

        Nothing is asked of the device before the host's bound on the lengths says that some row may be full. A full
        row has at least `overflow_context` frames behind it, so the kept ones are all its own.
        """
        cache, needed = state.cache, self.world_model.tokens_per_step
        if cache.longest + needed <= cache.capacity:
            return cache
        rows = (cache.lengths + needed > cache.capacity).nonzero().squeeze(1)
        if len(rows):
            cache.put(rows, self._read(state.frame_tokens[rows], state.actions[rows]).cache)
        cache.longest = int(cache.lengths.max())
        return cache

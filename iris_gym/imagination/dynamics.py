"""The learned simulator: frames in, actions in, frames, rewards and ends out."""

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_gym.errors import UsageError
from iris_gym.functional import sample_categorical
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.nn.transformer import KeyValueCache
from iris_gym.types import DreamStep

REREAD_ROWS = 16
"""Full rows that are read again at a time: reading half a context of many rows at once takes as much memory again."""


@dataclass(slots=True)
class DreamState:
    """Where a dream stands: everything that the next step depends on.

    `step` takes a state and returns the next one; it consumes its argument, whose cache tensors live on in the
    result. `clone` a state before a step to branch a dream there.
    """

    frame_tokens: Tensor  # (B, n, K) int64, the last frames that a full context keeps; the current one is the last
    between: Tensor  # (B, n - 1, T) int64, what stands between them: actions, and outcomes where these are read, too
    cache: KeyValueCache  # holds all that was read but the last token of the current frame

    def clone(self) -> "DreamState":
        return DreamState(self.frame_tokens, self.between, self.cache.clone())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the world model answers to one action, but for the frame, which is the last of the state's tokens."""

    reward: Tensor  # (B,) float32, one of -1, 0, 1
    end: Tensor  # (B,) bool
    log_prob: Tensor | None  # (B,) float32, of the frame's tokens under the world model; None where not asked for


class Dynamics:
    """A tokenizer and a world model as a simulator on tensors.

    `overflow_context` says how many frames, with what stands between them, a row keeps when its next step would not
    fit into the transformer. None: half of those that it reads, so that what moves goes on moving; 1 forgets all but
    the current frame, as the published agent does. Frames and classes are sampled with `temperature`; 0 takes the
    likeliest.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        world_model: WorldModel,
        *,
        overflow_context: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        if overflow_context is None:
            overflow_context = world_model.timesteps // 2
        if type(overflow_context) is not int or not 1 <= overflow_context < world_model.timesteps:
            raise UsageError(
                f"overflow_context={overflow_context} must lie between 1 and {world_model.timesteps - 1}: "
                f"the transformer reads {world_model.timesteps} timesteps and needs room for one more"
            )
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature={temperature} must be 0, for the likeliest, or a greater number")
        self.tokenizer = tokenizer
        self.world_model = world_model
        self.overflow_context = overflow_context
        self.temperature = temperature

    @property
    def num_actions(self) -> int:
        return self.world_model.num_actions

    @property
    def device(self) -> torch.device:
        return self.world_model.frame_embedding.weight.device

    def with_options(self, *, overflow_context: int | None, temperature: float) -> "Dynamics":
        """The same networks, not copied, dreaming otherwise."""
        checked = Dynamics(self.tokenizer, self.world_model, overflow_context=overflow_context, temperature=temperature)
        changed = copy.copy(self)  # of a subclass too
        changed.overflow_context, changed.temperature = checked.overflow_context, checked.temperature
        return changed

    @torch.no_grad()
    def start(self, frames: Tensor) -> DreamState:
        """Begin one dream a row at real frames (B, 3, 64, 64) in [0, 1]."""
        return self.start_from_tokens(self.tokenizer.encode(frames))

    @torch.no_grad()
    def start_from_tokens(self, tokens: Tensor) -> DreamState:
        """Begin one dream a row at frames given as tokens (B, K) int64."""
        return self.start_from_history(tokens[:, None], self._nothing_between(tokens))

    @torch.no_grad()
    def start_from_history(self, frame_tokens: Tensor, between: Tensor) -> DreamState:
        """Begin one dream a row at the last of n frames (B, n, K) that were seen with the tails (B, n - 1, T) between
        them; n below the world model's timesteps."""
        return DreamState(frame_tokens, between, self._read(frame_tokens, between, room=True))

    @torch.no_grad()
    def prepare(self, frames: Tensor) -> DreamState:
        """Like `start`, but only to `restart` rows of another dream from: the cache has no room for a step."""
        tokens = self.tokenizer.encode(frames)[:, None]
        nothing = self._nothing_between(tokens)
        return DreamState(tokens, nothing, self._read(tokens, nothing, room=False))

    def fits(self, state: DreamState) -> bool:
        """Whether the networks have the sizes of those that `state` is of, as far as it shows."""
        model, cache = self.world_model, self.world_model.transformer.empty_cache(0)
        return (
            state.cache.sizes == cache.sizes
            and state.cache.longest <= cache.capacity
            and state.frame_tokens.shape[2] == model.tokens_per_frame
            and state.between.shape[2] == model.tail_length
            and int(state.frame_tokens.max()) < model.frame_embedding.num_embeddings
        )

    def blank(self, rows: int, cache: KeyValueCache | None = None) -> DreamState:
        """A dream of `rows` rows that stand nowhere yet, to be restarted. The memory of `cache` is used again."""
        if cache is None:
            cache = self.world_model.transformer.empty_cache(rows)
        tokens = cache.lengths.new_zeros(rows, 1, self.world_model.tokens_per_frame)
        cache.longest, cache.even = 0, False
        return DreamState(tokens, self._nothing_between(tokens), cache)

    @torch.no_grad()
    def restart(self, state: DreamState, mask: Tensor, starts: DreamState, chosen: Tensor) -> DreamState:
        """Begin anew in the rows of `mask` (B,) bool, at the rows `chosen` (B,) int64 of what `prepare` gave.

        Consumes `state` as `step` does. Nothing waits for the device. The frames before the current one are left in
        place: no row reads them again before it has as many of its own.
        """
        state.cache.put_where(mask, starts.cache, chosen)
        current = torch.where(mask[:, None], starts.frame_tokens[chosen, -1], state.frame_tokens[:, -1])
        frame_tokens = torch.cat((state.frame_tokens[:, :-1], current[:, None]), dim=1)
        return DreamState(frame_tokens, state.between, state.cache)

    @torch.no_grad()
    def decode(self, state: DreamState) -> Tensor:
        """The frame (B, 3, 64, 64) in [0, 1] at which a dream stands."""
        return self.tokenizer.decode(state.frame_tokens[:, -1])

    @torch.no_grad()
    def step(
        self, state: DreamState, action: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[DreamState, DreamStep]:
        """Take an action (B,) int64 in each row."""
        state, outcome = self.advance(state, action, generator=generator)
        return state, DreamStep(self.decode(state), outcome.reward, outcome.end, state.frame_tokens[:, -1])

    @torch.no_grad()
    def advance(
        self, state: DreamState, action: Tensor, *, generator: torch.Generator | None = None, log_probs: bool = False
    ) -> tuple[DreamState, Outcome]:
        """`step` without decoding the frame.

        K transformer passes: the last token of the current frame is read together with the action, and every token
        of the next frame but its last one is read to sample the following; two more where outcomes are read, too.
        `log_probs` adds the log-probability of
        the frame's tokens, whatever temperature they were drawn with.
        """
        cache = self._make_room(state)
        sample = partial(sample_categorical, temperature=self.temperature, generator=generator)
        answer = self.world_model.step(state.frame_tokens[:, -1, -1], action, cache, sample)
        logits, tokens, log_prob = answer.first_token, [], None
        while True:
            tokens.append(sample(logits))
            if log_probs:
                log_prob = _log_probability(logits, tokens[-1]) + (0 if log_prob is None else log_prob)
            if len(tokens) == self.world_model.tokens_per_frame:
                break
            logits = self.world_model.next_token(tokens[-1], cache)
        tail = self.world_model.tails(action, answer.reward, answer.end)
        following = self._remember(state, tail, torch.stack(tokens, dim=1), cache)
        return following, Outcome(answer.reward.float() - 1, answer.end.bool(), log_prob)

    def _nothing_between(self, tokens: Tensor) -> Tensor:
        """(B, 0, T), in dreams that stand at their first frame."""
        return tokens.new_empty(len(tokens), 0, self.world_model.tail_length)

    def _read(self, frame_tokens: Tensor, between: Tensor, *, room: bool) -> KeyValueCache:
        """Frames (R, n, K) and the tails (R, n-1, T) between them in a cache, with `room` for steps or without."""
        rows, frames, _ = frame_tokens.shape
        cache = self.world_model.transformer.empty_cache(rows, None if room else self._length(frames))
        self.world_model.read_frames(frame_tokens, between, cache)
        return cache

    def _remember(self, state: DreamState, tail: Tensor, tokens: Tensor, cache: KeyValueCache) -> DreamState:
        """Append the new frame, and forget the frames that no overflow would bring back."""
        frame_tokens = torch.cat((state.frame_tokens, tokens[:, None]), dim=1)
        between = torch.cat((state.between, tail[:, None]), dim=1)
        forgotten = max(frame_tokens.shape[1] - self.overflow_context, 0)
        return DreamState(frame_tokens[:, forgotten:], between[:, forgotten:], cache)

    def _make_room(self, state: DreamState) -> KeyValueCache:
        """Where a row's next step would not fit, read its last `overflow_context` frames again from position 0.

        Nothing is asked of the device where all rows are equally long, as in training, nor before the host's bound on
        the lengths says that some row may be full. A full row has at least `overflow_context` frames behind it, so the
        kept ones are all its own.
        """
        cache, needed, even = state.cache, self.world_model.tokens_per_step, state.cache.even
        if cache.longest + needed <= cache.capacity:
            return cache
        if even:
            full = [slice(first, first + REREAD_ROWS) for first in range(0, len(cache.lengths), REREAD_ROWS)]
        else:
            found = (cache.lengths + needed > cache.capacity).nonzero().squeeze(1)
            full = found.split(REREAD_ROWS) if len(found) else ()
        for rows in full:
            cache.put(rows, self._read(state.frame_tokens[rows], state.between[rows], room=False))
        cache.longest = self._length(state.frame_tokens.shape[1]) if even else int(cache.lengths.max())
        cache.even = even
        return cache

    def _length(self, frames: int) -> int:
        """Tokens that are read of so many frames and what stands between them: the last one waits for its action."""
        return frames * self.world_model.tokens_per_step - self.world_model.tail_length - 1


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of tokens (B,) under logits (B, V): (B,) float32."""
    return F.log_softmax(logits.float(), dim=-1).gather(-1, tokens[:, None]).squeeze(-1)

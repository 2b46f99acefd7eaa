"""The world model: a transformer over frame and action tokens (Micheli et al. 2023, section 2.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_gym.functional import count_tokens, masked_cross_entropy, masked_mean
from iris_gym.nn.transformer import KeyValueCache, Transformer

REWARD_CLASSES = 3
"""-1, 0 and 1: the world model predicts the sign of a reward."""

END_CLASSES = 2

Sample = Callable[[Tensor], Tensor]
"""Logits (B, C) to classes (B,) int64."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits for whole segments of L timesteps."""

    frame_tokens: Tensor  # (B, L · K, V); entry i predicts frame token i + 1 of the segment
    rewards: Tensor  # (B, L, 3)
    ends: Tensor  # (B, L, 2)


@dataclass(frozen=True, slots=True)
class NextStep:
    """What came of an action, and what follows."""

    reward: Tensor  # (B,) int64, the sampled class: 0, 1, 2 for -1, 0, 1
    end: Tensor  # (B,) int64, the sampled class: 1 where the episode ended
    first_token: Tensor  # (B, V), logits of the first token of the next frame


@dataclass(frozen=True, slots=True)
class Shares:
    """What part of a larger batch's targets a batch has, where it is learned from in parts."""

    frame_tokens: float | Tensor = 1.0
    outcomes: float | Tensor = 1.0  # rewards and ends


WHOLE = Shares()


class WorldModel(nn.Module):
    """GPT over timesteps of K frame tokens and a tail of T tokens, with heads for frame tokens, reward and end.

    The tail is the action; with `outcomes_in_sequence` it is action, reward class and end, so that the next frame
    depends on what reward and end were sampled. The frame head is read before every frame token: at the frame tokens
    but the last, and at the tail's last token for the next frame. The reward is read at the action; so is the end, or
    at the reward where that is part of the sequence.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_actions: int,
        tokens_per_frame: int,
        timesteps: int,
        embed_dim: int,
        layers: int,
        heads: int,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        outcomes_in_sequence: bool = False,
        learn_first_frames: bool = True,
    ) -> None:
        super().__init__()
        self.outcomes_in_sequence = outcomes_in_sequence
        self.learn_first_frames = learn_first_frames
        self.tokens_per_frame = tokens_per_frame
        self.timesteps = timesteps
        self.transformer = Transformer(
            dim=embed_dim,
            layers=layers,
            heads=heads,
            max_tokens=timesteps * self.tokens_per_step,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.frame_embedding = nn.Embedding(vocab_size, embed_dim)
        self.action_embedding = nn.Embedding(num_actions, embed_dim)
        if outcomes_in_sequence:
            self.reward_embedding = nn.Embedding(REWARD_CLASSES, embed_dim)
            self.end_embedding = nn.Embedding(END_CLASSES, embed_dim)
        self.frame_head = _head(embed_dim, vocab_size)
        self.reward_head = _head(embed_dim, REWARD_CLASSES)
        self.end_head = _head(embed_dim, END_CLASSES)
        self.apply(_initialise)

    @property
    def tail_length(self) -> int:
        """T, the tokens of a timestep behind its frame."""
        return 3 if self.outcomes_in_sequence else 1

    @property
    def tokens_per_step(self) -> int:
        """K frame tokens and the tail."""
        return self.tokens_per_frame + self.tail_length

    @property
    def num_actions(self) -> int:
        return self.action_embedding.num_embeddings

    def tails(self, actions: Tensor, reward_classes: Tensor, ends: Tensor) -> Tensor:
        """The tails (..., T) int64 of timesteps whose action, reward class and end (0 or 1) are (...) int64."""
        return torch.stack((actions, reward_classes, ends)[: self.tail_length], dim=-1)

    def forward(self, frame_tokens: Tensor, tails: Tensor) -> Predictions:
        """Read segments: `frame_tokens` (B, L, K) int64 and `tails` (B, L, T) int64, L at most `timesteps`."""
        embeddings = torch.cat((self.frame_embedding(frame_tokens), self._embed_tails(tails)), dim=2)
        hidden = self.transformer(embeddings.flatten(1, 2)).view(*embeddings.shape)
        frames, tail = hidden.split((self.tokens_per_frame, self.tail_length), dim=2)
        before_frame_tokens = torch.cat((frames[:, :, :-1], tail[:, :, -1:]), dim=2).flatten(1, 2)
        before_end = tail[:, :, 1 if self.outcomes_in_sequence else 0]
        return Predictions(
            self.frame_head(before_frame_tokens), self.reward_head(tail[:, :, 0]), self.end_head(before_end)
        )

    def loss(
        self,
        frame_tokens: Tensor,
        actions: Tensor,
        rewards: Tensor,
        ends: Tensor,
        mask: Tensor,
        *,
        shares: Shares = WHOLE,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the three cross-entropies, each a mean over unpadded targets, and metrics.

        `frame_tokens` (B, L, K), the others (B, L) as in `Segment`. The first token of a segment is never a target,
        without `learn_first_frames` none of its first frame is.
        With `shares` the terms of the batches that are parts of one add up to that one's.
        """
        reward_targets, end_targets = rewards.sign().long() + 1, ends.long()
        predictions = self(frame_tokens, self.tails(actions, reward_targets, end_targets))
        frame_logits = predictions.frame_tokens[:, :-1]
        frame_targets = frame_tokens.flatten(1)[:, 1:]
        frame_mask = self.frame_targets(mask)
        frame_loss = shares.frame_tokens * masked_cross_entropy(frame_logits, frame_targets, frame_mask)
        reward_loss = shares.outcomes * masked_cross_entropy(predictions.rewards, reward_targets, mask)
        end_loss = shares.outcomes * masked_cross_entropy(predictions.ends, end_targets, mask)
        loss = frame_loss + reward_loss + end_loss
        metrics = {
            "loss": loss,
            "frame_loss": frame_loss,
            "reward_loss": reward_loss,
            "end_loss": end_loss,
            "token_accuracy": shares.frame_tokens * masked_mean(frame_logits.argmax(-1) == frame_targets, frame_mask),
            "reward_accuracy": shares.outcomes * masked_mean(predictions.rewards.argmax(-1) == reward_targets, mask),
            "commonest_token_share": self.commonest_token_share(frame_tokens, mask),
        }
        return loss, {name: value.detach() for name, value in metrics.items()}

    def frame_targets(self, mask: Tensor) -> Tensor:
        """Which frame tokens of a segment, but for its first, are targets: (B, L · K - 1) bool of `mask` (B, L)."""
        if not self.learn_first_frames:
            mask = F.pad(mask[:, 1:], (1, 0))
        return mask.repeat_interleave(self.tokens_per_frame, dim=1)[:, 1:]

    def commonest_token_share(self, frame_tokens: Tensor, mask: Tensor) -> Tensor:
        """The accuracy of always guessing the batch's commonest token, the floor that `token_accuracy` has to beat."""
        targets, vocab_size = frame_tokens.flatten(1)[:, 1:], self.frame_embedding.num_embeddings
        counts = count_tokens(targets, vocab_size, self.frame_targets(mask))
        return counts.max() / counts.sum().clamp_min(1)

    def read_frames(self, frame_tokens: Tensor, between: Tensor, cache: KeyValueCache) -> None:
        """Read n frames and the n-1 tails between them, all but the very last token, into the cache.

        `frame_tokens` (B, n, K), `between` (B, n-1, T). The last token stays out because `step` reads it together with
        the next action: one pass less a step.
        """
        frames = self.frame_embedding(frame_tokens)
        embeddings = torch.cat((frames[:, :-1], self._embed_tails(between)), dim=2).flatten(1, 2)
        embeddings = torch.cat((embeddings, frames[:, -1, :-1]), dim=1)
        self.transformer.forward_cached(embeddings, cache)

    def step(self, last_token: Tensor, action: Tensor, cache: KeyValueCache, sample: Sample) -> NextStep:
        """Read the last token (B,) of the current frame and the action (B,) taken there, and sample what comes of it.

        Outcomes that are part of the sequence are read as they were sampled, one pass each.
        """
        embeddings = torch.stack((self.frame_embedding(last_token), self.action_embedding(action)), dim=1)
        hidden = self.transformer.forward_cached(embeddings, cache)[:, -1]
        reward = sample(self.reward_head(hidden))
        if self.outcomes_in_sequence:
            hidden = self._read(self.reward_embedding(reward), cache)
        end = sample(self.end_head(hidden))
        if self.outcomes_in_sequence:
            hidden = self._read(self.end_embedding(end), cache)
        return NextStep(reward, end, self.frame_head(hidden))

    def next_token(self, token: Tensor, cache: KeyValueCache) -> Tensor:
        """Read a frame token (B,) and return logits (B, V) of the one after it."""
        return self.frame_head(self._read(self.frame_embedding(token), cache))

    def _read(self, embedding: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one more token a row, embedded (B, D); returns what the transformer makes of it (B, D)."""
        return self.transformer.forward_cached(embedding[:, None], cache)[:, -1]

    def _embed_tails(self, tails: Tensor) -> Tensor:
        """Tails (..., T) int64 to embeddings (..., T, D), each token by its own table."""
        tables = [self.action_embedding]
        if self.outcomes_in_sequence:
            tables += [self.reward_embedding, self.end_embedding]
        return torch.stack([table(token) for table, token in zip(tables, tails.unbind(-1), strict=True)], dim=-2)

    def weight_decay_groups(self, weight_decay: float) -> list[dict]:
        """Parameter groups for AdamW: decay on the weights of linear layers and on nothing else."""
        decayed = [module.weight for module in self.modules() if isinstance(module, nn.Linear)]
        chosen = set(map(id, decayed))
        others = [parameter for parameter in self.parameters() if id(parameter) not in chosen]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _head(dim: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, classes))


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for weights of linear layers and embeddings, zero for biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)

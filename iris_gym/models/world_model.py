"""The world model: a transformer over frame and action tokens (Micheli et al. 2023, section 2.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iris_gym.functional import masked_cross_entropy, masked_mean
from iris_gym.nn.transformer import KeyValueCache, Transformer

REWARD_CLASSES = 3
"""-1, 0 and 1: the world model predicts the sign of a reward."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Logits for whole segments of L timesteps."""

    frame_tokens: Tensor  # (B, L · K, V); entry i predicts frame token i + 1 of the segment
    rewards: Tensor  # (B, L, 3)
    ends: Tensor  # (B, L, 2)


@dataclass(frozen=True, slots=True)
class NextStep:
    """Logits after an action."""

    first_token: Tensor  # (B, V), the first token of the next frame
    reward: Tensor  # (B, 3)
    end: Tensor  # (B, 2)


class WorldModel(nn.Module):
    """GPT over timesteps of K frame tokens and one action token, with heads for frame tokens, reward and end.

    The frame head is read everywhere but at the last frame token of a timestep (an action follows there); reward and
    end are read at the action token.
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
    ) -> None:
        super().__init__()
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
        self.frame_head = _head(embed_dim, vocab_size)
        self.reward_head = _head(embed_dim, REWARD_CLASSES)
        self.end_head = _head(embed_dim, 2)
        self.apply(_initialise)

    @property
    def tokens_per_step(self) -> int:
        """K frame tokens and the action token."""
        return self.tokens_per_frame + 1

    @property
    def num_actions(self) -> int:
        return self.action_embedding.num_embeddings

    def forward(self, frame_tokens: Tensor, actions: Tensor) -> Predictions:
        """Read segments: `frame_tokens` (B, L, K) int64 and `actions` (B, L) int64, L at most `timesteps`."""
        embeddings = torch.cat((self.frame_embedding(frame_tokens), self.action_embedding(actions)[:, :, None]), dim=2)
        hidden = self.transformer(embeddings.flatten(1, 2)).view(*embeddings.shape)
        before_frame_tokens = torch.cat((hidden[:, :, :-2], hidden[:, :, -1:]), dim=2).flatten(1, 2)
        at_actions = hidden[:, :, -1]
        return Predictions(
            self.frame_head(before_frame_tokens), self.reward_head(at_actions), self.end_head(at_actions)
        )

    def loss(
        self, frame_tokens: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the three cross-entropies, each a mean over unpadded targets, and metrics.

        `frame_tokens` (B, L, K), the others (B, L) as in `Segment`. The first token of a segment is never a target.
        """
        predictions = self(frame_tokens, actions)
        frame_logits = predictions.frame_tokens[:, :-1]
        frame_targets = frame_tokens.flatten(1)[:, 1:]
        frame_mask = mask.repeat_interleave(self.tokens_per_frame, dim=1)[:, 1:]
        reward_targets = rewards.sign().long() + 1
        frame_loss = masked_cross_entropy(frame_logits, frame_targets, frame_mask)
        reward_loss = masked_cross_entropy(predictions.rewards, reward_targets, mask)
        end_loss = masked_cross_entropy(predictions.ends, ends.long(), mask)
        loss = frame_loss + reward_loss + end_loss
        metrics = {
            "loss": loss,
            "frame_loss": frame_loss,
            "reward_loss": reward_loss,
            "end_loss": end_loss,
            "token_accuracy": masked_mean(frame_logits.argmax(-1) == frame_targets, frame_mask),
            "reward_accuracy": masked_mean(predictions.rewards.argmax(-1) == reward_targets, mask),
            "commonest_token_share": _commonest_share(frame_targets, frame_mask, self.frame_embedding.num_embeddings),
        }
        return loss, {name: value.detach() for name, value in metrics.items()}

    def read_frames(self, frame_tokens: Tensor, actions: Tensor, cache: KeyValueCache) -> None:
        """Read n frames and the n-1 actions between them, all but the very last token, into the cache.

        `frame_tokens` (B, n, K), `actions` (B, n-1). The last token stays out because `step` reads it together with
        the next action: one pass less a step.
        """
        frames = self.frame_embedding(frame_tokens)
        between = self.action_embedding(actions)[:, :, None]
        embeddings = torch.cat((frames[:, :-1], between), dim=2).flatten(1, 2)
        embeddings = torch.cat((embeddings, frames[:, -1, :-1]), dim=1)
        self.transformer.forward_cached(embeddings, cache)

    def step(self, last_token: Tensor, action: Tensor, cache: KeyValueCache) -> NextStep:
        """Read the last token (B,) of the current frame and the action (B,) taken there."""
        embeddings = torch.stack((self.frame_embedding(last_token), self.action_embedding(action)), dim=1)
        hidden = self.transformer.forward_cached(embeddings, cache)[:, -1]
        return NextStep(self.frame_head(hidden), self.reward_head(hidden), self.end_head(hidden))

    def next_token(self, token: Tensor, cache: KeyValueCache) -> Tensor:
        """Read a frame token (B,) and return logits (B, V) of the one after it."""
        return self.frame_head(self.transformer.forward_cached(self.frame_embedding(token)[:, None], cache)[:, -1])

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


def _commonest_share(targets: Tensor, mask: Tensor, vocab_size: int) -> Tensor:
    """The accuracy of always guessing the batch's commonest token, the floor that `token_accuracy` has to beat."""
    counts = torch.zeros(vocab_size, device=targets.device).index_add_(0, targets.flatten(), mask.flatten().float())
    return counts.max() / counts.sum()

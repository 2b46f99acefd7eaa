"""A pre-norm transformer with a preallocated cache whose rows have lengths of their own."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of what each row of a batch has read.

    `forward` of the transformer writes into the tensors in place and advances `lengths`. `longest` is an upper bound
    of the lengths known to the host: reading only that far saves memory traffic, and asking the device for the
    lengths would stall it.
    """

    keys: Tensor  # (layers, B, heads, capacity, head_dim)
    values: Tensor  # the same
    lengths: Tensor  # (B,) int64, tokens read by each row
    longest: int

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def clone(self) -> "KeyValueCache":
        return KeyValueCache(self.keys.clone(), self.values.clone(), self.lengths.clone(), self.longest)

    def put(self, rows: Tensor, other: "KeyValueCache") -> None:
        """Replace `rows` (R,) by the R rows of another cache, a smaller one too."""
        span = other.capacity
        self.keys[:, rows, :, :span] = other.keys
        self.values[:, rows, :, :span] = other.values
        self.lengths[rows] = other.lengths
        self.longest = max(self.longest, other.longest)

    def put_where(self, mask: Tensor, other: "KeyValueCache", chosen: Tensor) -> None:
        """Replace each row in `mask` (B,) bool by the row `chosen` (B,) int64 of another cache, a smaller one too.

        Which rows these are is not asked of the device.
        """
        span, here = other.capacity, mask[:, None, None, None]
        for mine, others in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, :, :, :span] = torch.where(here, others[:, chosen], mine[:, :, :, :span])
        self.lengths = torch.where(mask, other.lengths[chosen], self.lengths)
        self.longest = max(self.longest, other.longest)

    def first(self, count: int) -> "KeyValueCache":
        """A copy of the first `count` places."""
        return KeyValueCache(
            self.keys[:, :, :, :count].clone(), self.values[:, :, :, :count].clone(), self.lengths.clone(), self.longest
        )


class SelfAttention(nn.Module):
    """Causal multi-head self-attention with fused projections."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within whole sequences (B, T, D)."""
        query, key, value = self._project(x)
        dropout = self.dropout if self.training else 0.0
        return self._merge(F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True))

    def forward_cached(self, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Attend from new tokens (B, T, D) to the cache and to themselves.

        `keys` and `values` (B, heads, capacity, head_dim) take the new tokens at `positions` (B, T); `visible`
        (B, 1, T, span) says which of the first `span` places each token may look at.
        """
        query, key, value = self._project(x)
        places = positions[:, None, :, None].expand_as(key)
        keys.scatter_(2, places, key)
        values.scatter_(2, places, value)
        span = visible.shape[-1]
        return self._merge(
            F.scaled_dot_product_attention(query, keys[:, :, :span], values[:, :, :span], attn_mask=visible)
        )

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, dim = x.shape
        heads = self.query_key_value(x).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _merge(self, attended: Tensor) -> Tensor:
        return self.projection(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each branch with dropout."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.mlp(self.mlp_norm(x))

    def forward_cached(self, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        x = x + self.attention.forward_cached(self.attention_norm(x), keys, values, positions, visible)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """GPT-style decoder over embedded tokens (B, T, D), T up to `max_tokens`, with learned positions.

    With `gradient_checkpointing` the activations inside the blocks are computed again in the backward pass instead
    of being kept.
    """

    def __init__(
        self,
        *,
        dim: int,
        layers: int,
        heads: int,
        max_tokens: int,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.position_embedding = nn.Embedding(max_tokens, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = cast("list[Block]", nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Read whole sequences from position 0; returns (B, T, D)."""
        x: Tensor = self.dropout(embeddings + self.position_embedding.weight[: embeddings.shape[1]])
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(block, x, use_reentrant=False))
            else:
                x = block(x)
        return self.norm(x)

    def forward_cached(self, embeddings: Tensor, cache: KeyValueCache) -> Tensor:
        """Read T more tokens of each row behind what the cache holds, and add them to it; returns (B, T, D)."""
        new = embeddings.shape[1]
        positions = cache.lengths[:, None] + torch.arange(new, device=embeddings.device)
        cache.longest = min(cache.longest + new, cache.capacity)
        visible = torch.arange(cache.longest, device=embeddings.device) <= positions[:, None, :, None]
        x = embeddings + self.position_embedding(positions)
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            x = block.forward_cached(x, keys, values, positions, visible)
        cache.lengths += new
        return self.norm(x)

    def empty_cache(self, batch: int, capacity: int | None = None) -> KeyValueCache:
        """A cache for `batch` rows that have read nothing, of `capacity` tokens a row. None: all that fit."""
        weight = self.position_embedding.weight
        heads = self.blocks[0].attention.heads
        shape = (len(self.blocks), batch, heads, capacity or weight.shape[0], weight.shape[1] // heads)
        return KeyValueCache(
            weight.new_zeros(shape),
            weight.new_zeros(shape),
            torch.zeros(batch, dtype=torch.int64, device=weight.device),
            0,
        )

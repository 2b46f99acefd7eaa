"""A pre-norm transformer with a preallocated cache whose rows have lengths of their own."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iris_gym.nn.attention import attend, by_products, causal_attention, rounded_span
from iris_gym.nn.dropout import Dropout


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of what each row of a batch has read.

    `forward_cached` of the transformer writes into the tensor in place and advances `lengths`. `longest` is an upper
    bound of the lengths known to the host: reading only that far saves memory traffic, and asking the device for the
    lengths would stall it. Where `even` is True each row is as long as that. All places are there from the start, but
    where plain products read them: these take a part of a tensor only after copying it, so there the tensor grows with
    what is read, and is always read as a whole.
    """

    keys_values: Tensor  # (layers, 2, B, heads, room, head_dim), room up to `capacity`
    lengths: Tensor  # (B,) int64, tokens read by each row
    longest: int
    capacity: int  # tokens that a row can read
    even: bool  # whether all rows are known to be equally long

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The transformer's layers and heads, and the width of a head."""
        layers, _, _, heads, _, head_dim = self.keys_values.shape
        return layers, heads, head_dim

    @property
    def span(self) -> int:
        """How many places to read, `longest` at least."""
        room = self.keys_values.shape[4]
        if by_products(self.keys_values):
            return room
        return self.longest if self.keys_values.device.type == "cpu" else rounded_span(self.longest, room)

    def reach(self, longest: int) -> None:
        """Have room for rows of `longest` tokens, or as many as `capacity` allows."""
        self.longest, room = min(longest, self.capacity), self.keys_values.shape[4]
        if self.longest > room:
            *before, _, head_dim = self.keys_values.shape
            grown = self.keys_values.new_zeros(*before, rounded_span(self.longest, self.capacity), head_dim)
            grown[..., :room, :] = self.keys_values
            self.keys_values = grown

    def clone(self) -> "KeyValueCache":
        return KeyValueCache(
            self.keys_values.clone(), self.lengths.clone(), self.longest, self.capacity, even=self.even
        )

    def put(self, rows: Tensor | slice, other: "KeyValueCache") -> None:
        """Replace `rows`, R of them, by the R rows of another cache, a smaller one too."""
        self.even = False
        self.reach(max(self.longest, other.longest))
        self.keys_values[:, :, rows, :, : other.longest] = other.keys_values[..., : other.longest, :]
        self.lengths[rows] = other.lengths

    def put_where(self, mask: Tensor, other: "KeyValueCache", chosen: Tensor) -> None:
        """Replace each row in `mask` (B,) bool by the row `chosen` (B,) int64 of another cache, a smaller one too.

        Which rows these are is not asked of the device.
        """
        self.even = False
        self.reach(max(self.longest, other.longest))
        mine, theirs = (cache.keys_values[..., : other.longest, :] for cache in (self, other))
        mine.copy_(torch.where(mask[:, None, None, None], theirs[:, :, chosen], mine))
        self.lengths = torch.where(mask, other.lengths[chosen], self.lengths)

    def compact(self) -> "KeyValueCache":
        """A copy with room for nothing more."""
        read = self.keys_values[..., : self.longest, :].clone()
        return KeyValueCache(read, self.lengths.clone(), self.longest, capacity=self.longest, even=self.even)


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
        query, key, value = self._project(x).permute(2, 0, 3, 1, 4).unbind(0)
        return self._merge(causal_attention(query, key, value, self.dropout if self.training else 0.0))

    def forward_cached(self, x: Tensor, keys_values: Tensor, rows: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
        """Attend from new tokens (B, T, D) to the cache and to themselves.

        `keys_values` (2, B, heads, capacity, head_dim) takes the new tokens of the `rows` (B, 1) at `places` (B, T);
        `hidden` (B, 1, T, span) is -inf at those of the first `span` places that a token may not look at, else 0.
        """
        new = self._project(x).to(keys_values.dtype)  # autocast gives others
        keys_values[:, rows, :, places] = new[:, :, 1:]
        keys, values = keys_values[:, :, :, : hidden.shape[-1]].unbind(0)
        return self._merge(attend(new[:, :, 0].transpose(1, 2), keys, values, hidden))

    def _project(self, x: Tensor) -> Tensor:
        """Queries, keys and values (B, T, 3, heads, head_dim)."""
        batch, length, dim = x.shape
        return self.query_key_value(x).view(batch, length, 3, self.heads, dim // self.heads)

    def _merge(self, attended: Tensor) -> Tensor:
        return self.projection(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each branch with dropout."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, dropout)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), Dropout(dropout))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.mlp(self.mlp_norm(x))

    def forward_cached(self, x: Tensor, keys_values: Tensor, rows: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
        x = x + self.attention.forward_cached(self.attention_norm(x), keys_values, rows, places, hidden)
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
        self.dropout = Dropout(dropout)
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
        new, device = embeddings.shape[1], embeddings.device
        places = cache.lengths[:, None] + torch.arange(new, device=device) if new > 1 else cache.lengths[:, None]
        cache.reach(cache.longest + new)
        beyond = torch.arange(cache.span, device=device) > places[:, None, :, None]
        hidden = torch.zeros_like(beyond, dtype=cache.keys_values.dtype).masked_fill_(beyond, -math.inf)
        rows = torch.arange(len(places), device=device)[:, None]
        x = embeddings + self.position_embedding(places)
        for block, keys_values in zip(self.blocks, cache.keys_values, strict=True):
            x = block.forward_cached(x, keys_values, rows, places, hidden)
        cache.lengths += new
        return self.norm(x)

    def empty_cache(self, batch: int, capacity: int | None = None) -> KeyValueCache:
        """A cache for `batch` rows that have read nothing, of `capacity` tokens a row. None: all that fit."""
        weight = self.position_embedding.weight
        heads = self.blocks[0].attention.heads
        capacity = capacity or weight.shape[0]
        room = rounded_span(1, capacity) if by_products(weight) else capacity
        keys_values = weight.new_zeros(len(self.blocks), 2, batch, heads, room, weight.shape[1] // heads)
        lengths = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return KeyValueCache(keys_values, lengths, 0, capacity, even=True)

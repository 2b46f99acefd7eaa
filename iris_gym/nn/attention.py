"""Attention by what is fastest on the device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_gym.nn.dropout import dropout

SPAN_STEP = 32
"""Places to which the keys of a growing sequence are rounded up. Where plain products read them oneDNN compiles and
keeps a kernel for every shape that it meets; a GPU's fused kernels have an unaligned mask copied in every layer."""


def by_products(x: Tensor) -> bool:
    """Whether a fused kernel loses to plain products in `x`'s precision: for several rows in bf16 a CPU's takes two to
    three times as long."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def rounded_span(places: int, most: int) -> int:
    """So many places, rounded up to a whole number of `SPAN_STEP`s, but `most` at most."""
    return min(math.ceil(places / SPAN_STEP) * SPAN_STEP, most)


def attend(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None) -> Tensor:
    """From T queries (B, heads, T, head_dim) to S keys and values (B, heads, S, head_dim): (B, heads, T, head_dim).

    `hidden`, broadcastable to (B, heads, T, S), is added to the scaled scores. With gradient the fused kernel is taken
    everywhere, for it does not keep the scores for the backward pass.
    """
    if torch.is_grad_enabled() or not by_products(query):
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=hidden)
    scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return (scores if hidden is None else scores + hidden).softmax(-1) @ values


def causal_attention(query: Tensor, key: Tensor, value: Tensor, dropout_probability: float) -> Tensor:
    """Causal attention of (B, heads, T, head_dim), dropping attention weights.

    The fused kernels of a CPU know no dropout, and torch's own fallback draws its mask slowly.
    """
    if not dropout_probability or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_probability, is_causal=True)
    length = query.shape[2]
    hidden = torch.full((length, length), -math.inf, dtype=query.dtype).triu_(1)
    scores = torch.baddbmm(
        hidden, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=1 / math.sqrt(query.shape[-1])
    )
    weights = dropout(scores.softmax(-1), dropout_probability)
    return (weights @ value.flatten(0, 1)).view_as(query)

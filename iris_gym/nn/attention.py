"""Attention without gradient, by what is fastest on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor

SPAN_STEP = 32
"""Places to which the keys of a growing sequence are rounded up where plain products read them: oneDNN compiles and
keeps a kernel for every shape that it meets."""

FEW = 2
"""Queries up to which the keys are better the left factor."""


def by_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend` takes plain products: a CPU's fused attention in bf16 takes two to eight times as long."""
    return device.type == "cpu" and dtype == torch.bfloat16


def attend(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None) -> Tensor:
    """From T queries (B, heads, T, head_dim) to S keys and values (B, heads, S, head_dim): (B, heads, T, head_dim).

    `hidden`, broadcastable to (B, heads, T, S), is added to the scaled scores.
    """
    if torch.is_grad_enabled() or not by_products(query.device, query.dtype):
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=hidden)
    query = query * query.shape[-1] ** -0.5
    if query.shape[-2] <= FEW:
        scores = (keys @ query.transpose(-1, -2)).transpose(-1, -2)
    else:
        scores = query @ keys.transpose(-1, -2)
    return (scores if hidden is None else scores + hidden).softmax(-1) @ values

"""Dropout and attention with dropout, written so that a CPU is fast at them, too."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16
"""Values of a 16-bit integer: probabilities become multiples of 1/65,536, and the scale is by what they became."""


def dropout(x: Tensor, probability: float) -> Tensor:
    """`x` with each element zeroed with `probability` and the others scaled up to keep the mean.

    On a CPU torch draws the mask one element after another, which took a third of a world model's update. Here each
    64-bit number that its generator gives serves four elements.
    """
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    dropped = round(probability * LEVELS)
    if dropped == 0:
        return x
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = (bits.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2).view(x.shape)
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped)) if dropped < LEVELS else torch.zeros_like(x)


class Dropout(nn.Module):
    """`dropout` in training mode, nothing in evaluation."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability) if self.training and self.probability else x


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

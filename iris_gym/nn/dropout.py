"""Dropout, written so that a CPU is fast at it, too."""

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

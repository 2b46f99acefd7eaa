"""The codebook in real frames and in dreams: how often each code is used, and what it looks like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.evaluation.real_episodes import RealEpisode
from iris_gym.evaluation.stretches import decode
from iris_gym.functional import count_tokens
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.types import FRAME_SIZE

DRAWN_CODES = 64
"""Codes that are drawn at most, the most used ones."""


@dataclass(frozen=True, slots=True)
class Codebook:
    """Which codes stand for what."""

    real_counts: NDArray[np.int64]  # (V,), in the real frames
    dream_counts: NDArray[np.int64]  # (V,), in the dreamt ones
    drawn: NDArray[np.int64]  # (D,), the most used codes, most used first
    patches: NDArray[np.uint8]  # (D, p, p, 3), the mean of the real patches that each stands for
    decoded: NDArray[np.uint8]  # (D, p, p, 3), the middle of what the decoder makes of the code alone


@inference
def look_at_codes(
    tokenizer: Tokenizer,
    episodes: Sequence[RealEpisode],
    tokens: Sequence[Tensor],
    dream_tokens: Tensor,
    device: torch.device,
) -> Codebook:
    """How often each code is used, and how the most used ones look."""
    vocab_size, per_frame = tokenizer.quantizer.vocab_size, tokens[0].shape[1]
    side = FRAME_SIZE // int(per_frame**0.5)
    real_counts = count_tokens(torch.cat(list(tokens)), vocab_size)
    used = int((real_counts > 0).sum())
    drawn = real_counts.argsort(descending=True, stable=True)[: min(used, DRAWN_CODES)]
    sums = torch.zeros(vocab_size, 3 * side * side)
    for episode, own in zip(episodes, tokens, strict=True):
        patches = episode.frames.unfold(2, side, side).unfold(3, side, side)  # T, 3, g, g, p, p
        sums.index_add_(0, own.flatten(), patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * side * side).float())
    means = (sums[drawn] / real_counts[drawn, None]).view(-1, 3, side, side)
    alone = decode(tokenizer, drawn[:, None].expand(-1, per_frame), device)
    middle = slice((FRAME_SIZE - side) // 2, (FRAME_SIZE - side) // 2 + side)
    return Codebook(
        real_counts.long().numpy(),
        count_tokens(dream_tokens, vocab_size).long().numpy(),
        drawn.numpy(),
        means.round().byte().permute(0, 2, 3, 1).numpy(),
        alone[:, :, middle, middle].permute(0, 2, 3, 1).numpy(),
    )

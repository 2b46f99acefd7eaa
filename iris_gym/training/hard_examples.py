"""Online hard example mining: most of what an autoencoder is shown it reconstructs well already."""

import torch
from torch import Tensor

from iris_gym.models.tokenizer import Tokenizer

CANDIDATES = 7
"""Frames that are drawn for each hard example. More would be as many passes for the same few frames."""


@torch.no_grad()
def with_hardest(tokenizer: Tokenizer, frames: Tensor, batch_size: int) -> Tensor:
    """Of frames (N, 3, 64, 64) in [0, 1] the `batch_size` to learn from (Shrivastava et al. 2016).

    Where N is `batch_size` + n · (`CANDIDATES` - 1), that is all but n of a batch, and behind these the n of the others
    with the largest mean squared error. The first ones stay as they were drawn, so that nothing common is forgotten.
    """
    hard = (len(frames) - batch_size) // (CANDIDATES - 1)
    if hard < 1:
        return frames
    drawn, candidates = frames[: batch_size - hard], frames[batch_size - hard :]
    errors = [(tokenizer.reconstruct(some) - some).square().mean((1, 2, 3)) for some in candidates.split(batch_size)]
    return torch.cat([drawn, candidates[torch.cat(errors).topk(hard).indices]])

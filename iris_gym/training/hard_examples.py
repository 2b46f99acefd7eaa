"""Online hard example mining: most of what an autoencoder is shown it reconstructs well already."""

import torch
from torch import Tensor

from iris_gym.models.tokenizer import Tokenizer

CANDIDATES = 7
"""Frames that are drawn for each hard example. More would be as many passes for the same few frames."""


@torch.no_grad()
def mine_hard_examples(tokenizer: Tokenizer, frames: Tensor, batch_size: int, *, at_once: int) -> Tensor:
    """Of frames (N, 3, 64, 64) in [0, 1] the batch to learn from (Shrivastava et al. 2016).

    Where N is `batch_size` + n · (`CANDIDATES` - 1) these are the first `batch_size` - n, as they were drawn, so that
    nothing common is forgotten, and of the others the n with the largest mean squared error. Not with the largest loss,
    as in the paper: where its foreground lies depends on the other frames of a batch. Equal frames count as several.
    Candidates are looked at `at_once` at a time.
    """
    hard = (len(frames) - batch_size) // (CANDIDATES - 1)
    if hard < 1:
        return frames
    drawn, candidates = frames[: batch_size - hard], frames[batch_size - hard :]
    errors = [(tokenizer.reconstruct(some) - some).square().mean((1, 2, 3)) for some in candidates.split(at_once)]
    return torch.cat([drawn, candidates[torch.cat(errors).topk(hard).indices]])

"""Losses of a batch that goes through its network in parts, one after another: the same gradient in less memory.

The losses of the parts add up to the batch's loss, and so do their metrics. What is a mean over the batch is weighted
by a part's share of what was averaged over; what looks at the batch as a whole (the codebook's moving averages, dead
codes, the mean frame, the dream) still does, and draws the same random numbers. Dropout is the exception: it is drawn
for each part.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from iris_gym.functional import slices, unit_frames
from iris_gym.models.tokenizer import Tokenizer, foreground
from iris_gym.models.world_model import Shares, WorldModel
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.hard_examples import mine_hard_examples
from iris_gym.training.losses import Dream, Objective
from iris_gym.types import Segment

LossParts = Callable[[Any], Iterator[tuple[Tensor, dict[str, Tensor]]]]
"""What an update learns from → (scalar to minimise, detached metrics) of each part; each is to be gone back through
before the next."""

SUMS = ("token_counts",)
"""Metrics that are counted, not averaged."""


def autoencoder_parts(tokenizer: Tokenizer, batch_size: int, parts: int) -> LossParts:
    """As `autoencoder_loss`, in parts."""

    def loss_parts(segment: Segment) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        frames = unit_frames(segment.frames[:, 0])
        frames = mine_hard_examples(tokenizer, frames, batch_size, at_once=-(-batch_size // parts))
        weights = foreground(frames) if tokenizer.foreground_weight else None
        pieces = slices(len(frames), parts)

        def outputs() -> Tensor:
            return torch.cat([tokenizer.encoder_outputs(frames[piece]) for piece in pieces])

        with tokenizer.quantizer.batch_in_parts(outputs):
            for piece in pieces:
                weight = None if weights is None else weights[piece]
                loss, metrics = tokenizer.loss(frames[piece], weight)
                yield _weighted(loss, metrics, (piece.stop - piece.start) / len(frames))

    return loss_parts


def world_model_parts(cache: FrameCache, world_model: WorldModel, parts: int) -> LossParts:
    """As `world_model_loss`, in parts, which differ in their padding."""

    def loss_parts(segment: Segment) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        pieces = slices(len(segment.mask), parts)
        tokens = torch.cat([cache.tokens(segment.take(piece)) for piece in pieces])
        commonest = world_model.commonest_token_share(tokens, segment.mask)
        for index, piece in enumerate(pieces):
            part = segment.take(piece)
            shares = Shares(
                world_model.frame_targets(part.mask).sum() / world_model.frame_targets(segment.mask).sum().clamp_min(1),
                part.mask.sum() / segment.mask.sum(),
            )
            loss, metrics = world_model.loss(
                tokens[piece], part.actions, part.rewards, part.ends, part.mask, shares=shares
            )
            metrics["commonest_token_share"] = commonest if index == 0 else torch.zeros_like(commonest)
            yield loss, metrics

    return loss_parts


def actor_critic_parts(objective: Objective, parts: int) -> LossParts:
    """As `actor_critic_loss`, in parts; the dream, through which no gradient goes, was dreamt in one piece."""

    def loss_parts(dream: Dream) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        trajectory, (hidden, cell) = dream
        for piece in slices(len(hidden), parts):
            loss, metrics = objective(trajectory.take(piece), (hidden[piece], cell[piece]))
            yield _weighted(loss, metrics, (piece.stop - piece.start) / len(hidden))

    return loss_parts


def _weighted(loss: Tensor, metrics: dict[str, Tensor], share: float) -> tuple[Tensor, dict[str, Tensor]]:
    return share * loss, {name: value if name in SUMS else share * value for name, value in metrics.items()}

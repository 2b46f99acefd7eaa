"""Stretches of real episodes, from many of whose frames a dream is to start.

Letters in shapes: S starts, C real frames that the dream has read when it starts (the last of them is the one it
starts at), H steps that are then compared, M = C + H, K tokens a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.errors import UsageError
from iris_gym.evaluation.real_episodes import RealEpisode
from iris_gym.functional import stored_frames, unit_frames
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.types import FRAME_SHAPE

BATCH = 64
"""Frames that go through the tokenizer at a time."""


@dataclass(frozen=True, slots=True)
class Start:
    """A frame of an episode at which a dream starts."""

    episode: int
    step: int


@dataclass(frozen=True, slots=True)
class Stretches:
    """What really happened around and after each start, on the CPU; zeros after the episode."""

    starts: list[Start]
    games: NDArray[np.int64]  # (S,)
    frames: Tensor  # (S, M, 3, 64, 64) uint8; the start is frame C - 1
    tokens: Tensor  # (S, M, K) int64
    actions: Tensor  # (S, M - 1) int64, taken at the frames but the last
    rewards: Tensor  # (S, M - 1) int64, their signs, -1, 0 or 1
    ends: Tensor  # (S, M - 1) bool
    step_known: NDArray[np.bool_]  # (S, H), whether the h-th step after the start was taken
    frame_known: NDArray[np.bool_]  # (S, H), whether it led to a frame that a replay would hold, too
    context: int  # C

    @property
    def horizon(self) -> int:
        return self.step_known.shape[1]

    @property
    def complete(self) -> NDArray[np.bool_]:
        """(S,), whether each stretch was watched over the whole horizon or to an end before."""
        return self.step_known[:, -1] | self.ends[:, self.context - 1 :].any(1).numpy()

    def after_start(self, values: Tensor) -> Tensor:
        """Of actions, rewards or ends (S, M - 1) those from the start on: (S, H)."""
        return values[:, self.context - 1 :]


def choose_starts(
    episodes: Sequence[RealEpisode], count: int, *, horizon: int, context: int, generator: np.random.Generator
) -> list[Start]:
    """Draw up to `count` starts, uniformly among all steps that have `context - 1` frames before them.

    Steps too near to where an episode was cut, and not ended, are left out: nobody knows what came then.

    Raises:
        UsageError: no step will do.
    """
    candidates = []
    for index, episode in enumerate(episodes):
        last = len(episode) if episode.terminated else len(episode) - horizon + 1
        candidates += [Start(index, step) for step in range(context - 1, last)]
    if not candidates:
        raise UsageError(
            f"horizon={horizon} and context={context} leave no start: no episode was watched for long enough; "
            "lower them, or play longer"
        )
    chosen = generator.choice(len(candidates), size=min(count, len(candidates)), replace=False)
    return [candidates[index] for index in sorted(chosen)]


def cut_stretches(
    episodes: Sequence[RealEpisode], tokens: Sequence[Tensor], starts: list[Start], *, horizon: int, context: int
) -> Stretches:
    """Gather what happened around the starts; `tokens` are those of each episode's frames, (T, K) int64."""
    rows, length = len(starts), context + horizon
    cut_tokens = torch.zeros(rows, length, tokens[0].shape[1], dtype=torch.int64)
    frames = torch.zeros(rows, length, *FRAME_SHAPE, dtype=torch.uint8)
    actions, rewards = (torch.zeros(rows, length - 1, dtype=torch.int64) for _ in range(2))
    ends = torch.zeros(rows, length - 1, dtype=torch.bool)
    known = np.zeros(rows, np.int64)
    for row, start in enumerate(starts):
        episode, begin = episodes[start.episode], start.step - context + 1
        seen = slice(begin, begin + length)
        taken = slice(begin, begin + length - 1)
        known[row] = len(episode) - start.step
        for target, source, window in (
            (frames, episode.frames, seen),
            (cut_tokens, tokens[start.episode], seen),
            (actions, episode.actions, taken),
            (rewards, episode.rewards.sign().long(), taken),
            (ends, episode.ends, taken),
        ):
            part = source[window]
            target[row, : len(part)] = part
    steps = np.arange(1, horizon + 1)
    return Stretches(
        starts,
        np.array([episodes[start.episode].game for start in starts]),
        frames,
        cut_tokens,
        actions,
        rewards,
        ends,
        step_known=steps <= known[:, None],
        frame_known=steps < known[:, None],
        context=context,
    )


@inference
def encode(tokenizer: Tokenizer, frames: Tensor, device: torch.device) -> Tensor:
    """Tokens (N, K) int64 of frames (N, 3, 64, 64) uint8, on the CPU."""
    return torch.cat([tokenizer.encode(unit_frames(part.to(device))).cpu() for part in frames.split(BATCH)])


@inference
def decode(tokenizer: Tokenizer, tokens: Tensor, device: torch.device) -> Tensor:
    """Frames (..., 3, 64, 64) uint8 of tokens (..., K), on the CPU."""
    parts = [stored_frames(tokenizer.decode(part.to(device))).cpu() for part in tokens.flatten(0, -2).split(BATCH)]
    return torch.cat(parts).view(*tokens.shape[:-1], *FRAME_SHAPE)

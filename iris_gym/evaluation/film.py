"""A moving picture of an evaluation's first episode."""

from collections.abc import Iterator

import numpy as np
import torch

from iris_gym.envs import to_frames
from iris_gym.evaluation.evaluate import MAX_STEPS, ROWS
from iris_gym.evaluation.rows import OpenEnv, Player, Rows, SeedQueue
from iris_gym.evaluation.video import panel

SCALE = 6
"""Every pixel becomes a square of so many by so many."""


def film(
    player: Player,
    open_env: OpenEnv,
    name: str,
    *,
    episodes: int,
    seed: int,
    max_steps: int = MAX_STEPS,
) -> Iterator[np.ndarray]:
    """The first episode of an evaluation with these arguments, played once more, an image (height, width, 3) a step.

    It is the same episode, step by step: those that were played beside it are played again, too.
    """
    count = min(episodes, ROWS)
    rows = Rows(player, open_env, count, max_steps=max_steps)
    row = seed % count
    try:
        rows.fill(SeedQueue(seed, count, count).deal)
        yield _image(rows, row, name)
        while row in rows.seeds:
            rows.step()
            yield _image(rows, row, name)
    finally:
        rows.close()


def _image(rows: Rows, row: int, name: str) -> np.ndarray:
    frame = torch.from_numpy(to_frames(rows.observations[row : row + 1])[0])
    return panel(name, frame, float(rows.rewards[row]), float(rows.returns[row]), row not in rows.seeds, SCALE)

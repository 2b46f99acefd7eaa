"""A replay that looks full, in a moment."""

import numpy as np

from iris_gym.data.replay import Replay
from iris_gym.types import FRAME_SHAPE

EPISODE_STEPS = 500
DIFFERENT_FRAMES = 256


def fill_with_noise(replay: Replay, rows: int, num_actions: int) -> None:
    """Append `rows` transitions, in episodes of `EPISODE_STEPS`; few different frames, over and over."""
    noise = np.random.default_rng(0)
    frames = noise.integers(256, size=(DIFFERENT_FRAMES, *FRAME_SHAPE), dtype=np.uint8)
    actions = noise.integers(num_actions, size=rows).tolist()
    for row, action in enumerate(actions):
        ended = (row + 1) % EPISODE_STEPS == 0
        replay.append(frames[row % DIFFERENT_FRAMES], action, 0.0, terminated=ended, truncated=False)

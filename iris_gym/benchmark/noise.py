"""A replay that looks full, in a moment."""

import numpy as np

from iris_gym.data.replay import Replay
from iris_gym.types import FRAME_SHAPE

EPISODE_STEPS = 500
DIFFERENT_FRAMES = 256


def fill_with_noise(replay: Replay, rows: int, num_actions: int) -> None:
    """Append `rows` transitions, in episodes of `EPISODE_STEPS`; few different frames, over and over.

    Half of the steps are rewarded, at random, so that some episodes are better than others.
    """
    noise = np.random.default_rng(0)
    frames = noise.integers(256, size=(DIFFERENT_FRAMES, *FRAME_SHAPE), dtype=np.uint8)
    actions = noise.integers(num_actions, size=rows).tolist()
    rewards = noise.integers(2, size=rows).tolist()
    for row, (action, reward) in enumerate(zip(actions, rewards, strict=True)):
        ended = (row + 1) % EPISODE_STEPS == 0
        replay.append(frames[row % DIFFERENT_FRAMES], action, reward, terminated=ended, truncated=False)

"""MinAtar's games as images (Young and Tian 2019)."""

from typing import Any

import gymnasium as gym
import numpy as np

from iris_gym.envs.preprocessing import image_space
from iris_gym.types import FRAME_SIZE

PALETTE = np.array(
    [
        (0, 0, 0),
        (255, 255, 255),
        (230, 25, 75),
        (60, 180, 75),
        (255, 225, 25),
        (0, 130, 200),
        (245, 130, 48),
        (145, 30, 180),
        (70, 240, 240),
        (240, 50, 230),
        (128, 128, 128),
    ],
    np.uint8,
)
"""Black where a cell is empty, then a colour for each of the at most ten channels."""


class MinAtarImages(gym.ObservationWrapper):
    """Paints MinAtar's state, (10, 10, C) bool, as (64, 64, 3) uint8 with crisp cells.

    As in the library's own rendering the last channel that is set gives a cell its colour. That rendering would need
    seaborn, and gives floats.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = image_space()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        if seed is not None:  # MinAtar's sticky actions remember the last action of the episode before
            self.unwrapped.game.last_action = 0  # pyright: ignore[reportAttributeAccessIssue]
        return super().reset(seed=seed, options=options)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return paint(observation)

    def render(self) -> Any:
        if self.render_mode != "rgb_array":
            return super().render()
        return paint(self.unwrapped.game.state())  # pyright: ignore[reportAttributeAccessIssue]


def paint(state: np.ndarray) -> np.ndarray:
    """A state, (H, W, C) bool with C at most 10, as (64, 64, 3) uint8, each pixel one of `PALETTE`."""
    height, width, channels = state.shape
    colours = (state * np.arange(1, channels + 1)).max(axis=2)
    rows = np.arange(FRAME_SIZE) * height // FRAME_SIZE
    columns = np.arange(FRAME_SIZE) * width // FRAME_SIZE
    return PALETTE[colours[rows][:, columns]]

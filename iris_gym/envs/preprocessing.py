"""From an environment's image to the frame that the agent knows: RGB, uint8, 64×64 (Micheli et al. 2023, appendix A).

Letters in shapes: N observations, H and W of the environment's own image. Channels are 1 or 3, first or last. H and W
are at least 8, so that a shape alone tells where the channels are.
"""

import numpy as np
from gymnasium import spaces
from PIL import Image

from iris_gym.errors import UsageError, one_line
from iris_gym.types import FRAME_SHAPE, FRAME_SIZE

IMAGE_SHAPE = (FRAME_SIZE, FRAME_SIZE, 3)
"""A frame as environments give it: channels last, as Gymnasium and Stable-Baselines3 have it."""

MIN_SIDE = 8
"""The smallest H and W that are taken as an image."""

MAX_SIDE = 2_048
"""Pixels of an observation's side; its space holds two numbers for every pixel."""

MAX_ACTIONS = 65_536


def image_space() -> spaces.Box:
    """The observation space of every environment of this package: (64, 64, 3) uint8."""
    return spaces.Box(0, 255, IMAGE_SHAPE, np.uint8)


def resize(frame: np.ndarray) -> np.ndarray:
    """A (H, W, 3) uint8 image as (64, 64, 3) uint8, bilinear with antialiasing, as the published agents saw it.

    An image that has the size already is returned as it is.
    """
    if frame.shape == IMAGE_SHAPE:
        return frame
    resized = Image.fromarray(frame).resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BILINEAR)
    return np.array(resized)  # a copy, for the view of Pillow's memory is read-only


def to_image(observation: np.ndarray) -> np.ndarray:
    """One observation, (H, W), (H, W, C) or (C, H, W) uint8, as (64, 64, 3) uint8.

    Raises:
        UsageError: it is not a uint8 image.
    """
    return resize(_as_rgb(np.asarray(observation)[None])[0])


def to_frames(observations: np.ndarray) -> np.ndarray:
    """A batch of observations as contiguous frames (N, 3, 64, 64) uint8.

    Args:
        observations: (N, H, W, C), (N, C, H, W) or (N, H, W) uint8, C being 1 or 3. Grey is repeated to RGB.

    Returns:
        The frames. They share the memory of `observations` where these were contiguous frames already.

    Raises:
        UsageError: the observations are not uint8 images.
    """
    images = _as_rgb(np.asarray(observations))
    if images.shape[1:] != IMAGE_SHAPE:
        resized = [resize(image) for image in images]
        images = np.stack(resized) if resized else np.empty((0, *IMAGE_SHAPE), np.uint8)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def batched(observation: np.ndarray, space_shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Observations with a leading axis N, and whether a single one was given without it.

    The observation may be channels last where the space is channels first and the other way round: Stable-Baselines3
    transposes the space that an agent knows, but not the observations of an environment used on its own.

    Args:
        observation: one observation or a batch, uint8, in any layout that `to_frames` takes.
        space_shape: the shape of the agent's observation space. It decides whether three axes are a batch of grey
            (H, W) images.

    Raises:
        UsageError: the shape is neither an image's nor a batch's.
    """
    observation = np.asarray(observation)
    shape = observation.shape
    is_batch_of_space = shape[1:] == tuple(space_shape)
    if not is_batch_of_space and _layout(shape) is not None:
        return observation[None], True
    if is_batch_of_space or _layout(shape[1:]) is not None:
        return observation, False
    raise UsageError(
        f"observation: shape {shape} is no image; give one of shape {tuple(space_shape)} or a batch of such"
    )


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space, env_name: str) -> None:
    """Refuse an environment that the agent cannot play.

    Raises:
        UsageError: the actions are not `Discrete` counted from 0, or the observations are not uint8 images with 1 or
            3 channels and sides of at least 8 pixels; or either is larger than what is stored can be.
    """
    if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
        raise UsageError(
            f"env: {env_name!r} has the action space {one_line(action_space)}; "
            "it must be gymnasium.spaces.Discrete(n) with start=0"
        )
    is_image = isinstance(observation_space, spaces.Box) and observation_space.dtype == np.uint8
    if not is_image or _layout(observation_space.shape or ()) is None:
        raise UsageError(
            f"env: {env_name!r} has the observation space {one_line(observation_space)}; it must be a uint8 Box of "
            f"images with 1 or 3 channels and sides of at least {MIN_SIDE} pixels; "
            "gymnasium.wrappers.AddRenderObservation makes such observations of an environment that renders"
        )
    if action_space.n > MAX_ACTIONS or max(observation_space.shape or ()) > MAX_SIDE:
        raise UsageError(
            f"env: {env_name!r} has {action_space.n} actions and observations of {observation_space.shape}; at most "
            f"{MAX_ACTIONS} actions and sides of {MAX_SIDE} pixels are taken"
        )


def _layout(shape: tuple[int, ...]) -> str | None:
    """How the axes of one image lie: "HWC", "CHW" or "HW"; None where the shape is no image's."""
    for layout in ("HWC", "CHW", "HW"):
        if len(shape) == len(layout) and all(
            size in (1, 3) if axis == "C" else size >= MIN_SIDE for axis, size in zip(layout, shape, strict=True)
        ):
            return layout
    return None


def _as_rgb(observations: np.ndarray) -> np.ndarray:
    """Any batch that `to_frames` takes as (N, H, W, 3) uint8, without resizing."""
    layout = _layout(observations.shape[1:])
    if layout is None or observations.dtype != np.uint8:
        raise UsageError(
            f"observation: a batch of shape {observations.shape} and dtype {observations.dtype} is not usable; "
            f"give uint8 images with 1 or 3 channels, such as (N, {FRAME_SIZE}, {FRAME_SIZE}, 3) or (N, "
            f"{', '.join(map(str, FRAME_SHAPE))})"
        )
    if layout == "HW":
        observations = observations[..., None]
    elif layout == "CHW":
        observations = observations.transpose(0, 2, 3, 1)
    return observations if observations.shape[-1] == 3 else observations.repeat(3, axis=-1)

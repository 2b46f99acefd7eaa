"""What users hand to a dream, checked and made tensors. N is the number of rows."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium.error import InvalidAction, UnsupportedMode
from gymnasium.vector import AutoresetMode
from torch import Tensor

from iris_gym.envs.preprocessing import to_frames
from iris_gym.errors import UsageError
from iris_gym.functional import on_device
from iris_gym.types import FRAME_SHAPE, FRAME_SIZE

Output = Literal["torch", "numpy"]
ObsType = Literal["pixels", "tokens", "latent"]

StartFrames = Callable[[int, np.random.Generator], Tensor]
"""(how many, generator) → frames (S, 3, 64, 64) uint8, drawn anew at each call."""


def start_source(start_frames: Tensor | np.ndarray | StartFrames) -> StartFrames:
    """Draws from given images, uniformly; a source stays what it is.

    Args:
        start_frames: uint8 images, channels first or last, of any size if they are an array; or a source.

    Raises:
        UsageError: they are not images, or there are none; a source's are looked at when they are drawn.
    """
    if callable(start_frames) and not isinstance(start_frames, Tensor):
        return lambda count, generator: _as_drawn(start_frames(count, generator), count)
    frames = as_frames("start_frames", start_frames)
    if not len(frames):
        raise UsageError("start_frames=[] has nothing to start from; give at least one image")
    return lambda count, generator: frames[on_device(generator.integers(len(frames), size=count), frames.device)]


def _as_drawn(frames: Tensor | np.ndarray, count: int) -> Tensor:
    """What a source gave for `count` frames."""
    drawn = as_frames("start_frames", frames)
    if len(drawn) != count:
        raise UsageError(f"start_frames gave {len(drawn)} frames where {count} were asked for; give as many")
    return drawn


def as_frames(name: str, images: Tensor | np.ndarray) -> Tensor:
    """uint8 images (S, H, W, C) or (S, C, H, W) as frames (S, 3, 64, 64); tensors stay on their device."""
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        if images.shape[1:] == FRAME_SHAPE:
            return images
        if images.shape[1:] == (FRAME_SIZE, FRAME_SIZE, 3):
            return images.permute(0, 3, 1, 2)
    try:
        array = images.cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
        return torch.from_numpy(to_frames(array))
    except UsageError as error:
        raise UsageError(f"{name} cannot be used: {error}") from error


def as_initial_frames(images: Any, rows: int) -> Tensor:
    """The option `initial_frames`, (N, 64, 64, 3) uint8, as frames (N, 3, 64, 64)."""
    shape, dtype = tuple(np.shape(images)), getattr(images, "dtype", None)
    if shape != (rows, FRAME_SIZE, FRAME_SIZE, 3) or dtype not in (np.uint8, torch.uint8):
        raise UsageError(
            f"initial_frames is {dtype} {shape}; give uint8 {(rows, FRAME_SIZE, FRAME_SIZE, 3)}, a frame for every row"
        )
    return as_frames("initial_frames", images)


def as_mask(mask: Any, rows: int, device: torch.device) -> Tensor:
    """The option `reset_mask`, (N,) bool array or tensor, on the device.

    Raises:
        TypeError: it is no bool array or tensor.
        UsageError: its shape is another, or nothing in it is True. As Gymnasium's own environments, a `ValueError`.
    """
    if not isinstance(mask, np.ndarray | Tensor):
        raise TypeError(f"options['reset_mask'] must be a NumPy array or a tensor, got {type(mask).__name__}")
    if mask.dtype not in (np.bool_, torch.bool):
        raise TypeError(f"options['reset_mask'] must have dtype bool, got {mask.dtype}")
    if tuple(mask.shape) != (rows,):
        raise UsageError(f"options['reset_mask'] must have shape ({rows},), got {tuple(mask.shape)}")
    if not mask.any():
        raise UsageError(f"options['reset_mask'] must have at least one True, got reset_mask={mask}")
    return torch.as_tensor(mask, device=device)


def as_actions(actions: Any, rows: int, num_actions: int, device: torch.device) -> Tensor:
    """Actions (N,) of any integer dtype as int64 on the device.

    On another device than the CPU the values of a tensor are not looked at, for that would stall it; there an action
    out of range fails as an index does.

    Raises:
        InvalidAction: dtype, shape or a value is another than the action space's.
    """
    given = actions if isinstance(actions, Tensor) else torch.as_tensor(_integers(actions))
    if given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        raise InvalidAction(f"actions are {given.dtype}; give integers")
    if given.shape != (rows,):
        raise InvalidAction(f"actions have shape {tuple(given.shape)}; give ({rows},), one for each row")
    if given.device.type == "cpu" and not bool(((given >= 0) & (given < num_actions)).all()):
        raise InvalidAction(f"actions {given.tolist()} are not all in 0 to {num_actions - 1}")
    return given.to(device, torch.int64)


def as_autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """The mode itself, its value such as "SameStep", or its name such as "SAME_STEP"."""
    for known in AutoresetMode:
        if mode in (known, known.value, known.name):
            return known
    raise UsageError(f"autoreset_mode={mode!r} is unknown; give one of {', '.join(m.value for m in AutoresetMode)}")


def check_arguments(
    num_envs: int, horizon: int | None, output: str, obs_type: str, temperature: float, render_mode: str | None
) -> None:
    """Raise `UsageError`, or Gymnasium's `UnsupportedMode`, for the first argument of a dream that is out of range."""
    if not _is_count(num_envs):
        raise UsageError(f"num_envs={num_envs!r} must be a whole number greater than 0")
    if horizon is not None and not _is_count(horizon):
        raise UsageError(f"horizon={horizon!r} must be a whole number greater than 0, or None for no end")
    for name, value, known in (("output", output, get_args(Output)), ("obs_type", obs_type, get_args(ObsType))):
        if value not in known:
            raise UsageError(f"{name}={value!r} is unknown; give one of {', '.join(known)}")
    if isinstance(temperature, bool) or not isinstance(temperature, Real) or not 0 <= temperature < math.inf:
        raise UsageError(f"temperature={temperature!r} must be 0, for the likeliest, or a greater number")
    if render_mode not in (None, "rgb_array"):
        raise UnsupportedMode(f"render_mode={render_mode!r} is unknown; give 'rgb_array' or None")


def _integers(actions: Any) -> np.ndarray:
    array = np.asarray(actions)
    if array.dtype.kind not in "iu":
        raise InvalidAction(f"actions are {array.dtype}; give integers")
    return array.astype(np.int64)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)

"""Pictures through Stable-Baselines3's logger."""

from collections.abc import Mapping

import numpy as np
import torch
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    Image,
    JSONOutputFormat,
    Logger,
    TensorBoardOutputFormat,
    Video,
)
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

TEXT = ("stdout", "log", "json", "csv")
"""Outputs that cannot show a picture."""


def shows_pictures(logger: Logger) -> bool:
    """Whether any of a logger's outputs does more than text."""
    return not all(
        isinstance(output, CSVOutputFormat | HumanOutputFormat | JSONOutputFormat) for output in logger.output_formats
    )


def record_pictures(
    logger: Logger,
    images: Mapping[str, np.ndarray],
    films: Mapping[str, tuple[np.ndarray, bytes]],
    *,
    fps: float,
    step: int,
) -> None:
    """Record pictures for the logger's next dump.

    TensorBoard's films are written at once, as the GIFs that its image page animates: what torch does with a `Video`
    needs a moviepy below 2.

    Args:
        images: (H, W, 3) uint8 by name.
        films: (T, H, W, 3) uint8 and the same as a GIF, by name.
        step: of the next dump.
    """
    for name, image in images.items():
        logger.record(name, Image(image, "HWC"), exclude=TEXT)
    for name, (film, gif) in films.items():
        frames = torch.from_numpy(film).permute(0, 3, 1, 2)[None]
        logger.record(name, Video(frames, fps), exclude=(*TEXT, "tensorboard"))
        for output in logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                _write_gif(output, name, gif, film.shape[1:], step)


def _write_gif(output: TensorBoardOutputFormat, name: str, gif: bytes, shape: tuple[int, ...], step: int) -> None:
    height, width, colours = shape
    image = Summary.Image(height=height, width=width, colorspace=colours, encoded_image_string=gif)
    assert output.writer.file_writer is not None, "the writer is open"
    output.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

"""Pictures of what the models make of real frames, for a run folder's `media/`.

Images are NumPy arrays (height, width, 3) uint8. Frames and models lie on the same device.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.data.replay import Replay
from iris_gym.evaluation.files import write_atomically
from iris_gym.functional import stored_frames, unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.types import FRAME_SIZE

LABEL_HEIGHT = 12
"""Of the band above a strip, in pixels."""

LABEL_WIDTH = 74
"""Of the band on the left of a strip; "reconstruction" fits."""


RECONSTRUCTED_FRAMES = 16
"""Frames in a run's picture of reconstructions."""


KEPT_PICTURES = 64
"""Of each kind in a run's `media/`. At more, those nearest to others go, so that all of the run stays in sight."""

STEP_DIGITS = 7
"""Of the step in a picture's name."""

FILM_SCALE = 4


@dataclass(frozen=True, slots=True)
class RunPictures:
    """What a run's models make of stored frames."""

    step: int  # of the run, in environment steps
    reconstructions: np.ndarray  # (128, 64 · N, 3) uint8, real frames above
    dream: np.ndarray  # the strip of `dream_rows`
    film: np.ndarray  # (L, 64, 192, 3) uint8, the same: real, reconstruction and dream from left to right


def run_pictures(step: int, dynamics: Dynamics, replay: Replay) -> RunPictures | None:
    """Pictures of stored frames; None of an empty replay.

    The frames and the dream are drawn from `step`, so no random stream of the training is touched.
    """
    if not len(replay):
        return None
    draws = np.random.default_rng(step)
    frames = replay.sample_segments(RECONSTRUCTED_FRAMES, 1, generator=draws, align="start").frames[:, 0]
    segment = replay.sample_segments(1, dynamics.world_model.timesteps, generator=draws, align="end")
    real = segment.mask[0]
    generator = torch.Generator(frames.device).manual_seed(step)
    rows = dream_rows(dynamics, segment.frames[0, real], segment.actions[0, real], generator=generator)
    film = torch.cat(list(rows.values()), dim=3).permute(0, 2, 3, 1).cpu().numpy()
    return RunPictures(step, reconstructions(dynamics.tokenizer, frames), labelled_strip(rows), film)


def save_run_pictures(media: Path, pictures: RunPictures, fps: float) -> None:
    """Write `reconstructions_<steps>.png`, `dream_<steps>.png` and the film `dream_<steps>.gif`."""
    name = f"{pictures.step:0{STEP_DIGITS}d}"
    save_png(media / f"reconstructions_{name}.png", pictures.reconstructions)
    save_png(media / f"dream_{name}.png", pictures.dream)
    write_atomically(media / f"dream_{name}.gif", gif(pictures.film, fps, scale=FILM_SCALE))
    for pattern in ("reconstructions_*.png", "dream_*.png", "dream_*.gif"):
        _thin(media, pattern)


def _thin(folder: Path, pattern: str) -> None:
    """Remove pictures above `KEPT_PICTURES`, those nearest to their neighbours; the first and the newest stay."""
    numbered = {path.stem.rpartition("_")[2]: path for path in folder.glob(pattern)}
    steps = sorted(int(number) for number in numbered if len(number) == STEP_DIGITS and number.isdigit())
    while len(steps) > KEPT_PICTURES:
        gaps = [after - before for before, after in zip(steps, steps[2:], strict=False)]
        removed = steps.pop(1 + gaps.index(min(gaps)))
        numbered[f"{removed:0{STEP_DIGITS}d}"].unlink(missing_ok=True)


def gif(film: np.ndarray, fps: float, scale: int = 1) -> bytes:
    """Images (T, H, W, 3) uint8 as an endless animation, every pixel a square of `scale` by `scale`."""
    height, width = film.shape[1:3]
    size = width * scale, height * scale
    # Palettes are chosen first, which is quicker the fewer pixels there are, and the outcome is the same.
    images = [Image.fromarray(image).quantize().resize(size, Image.Resampling.NEAREST) for image in film]
    buffer = BytesIO()
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, optimize=False
    )
    return buffer.getvalue()


def reconstructions(tokenizer: Tokenizer, frames: Tensor) -> np.ndarray:
    """Real frames (N, 3, 64, 64) uint8 over their reconstructions: (128, 64 · N, 3)."""
    return _grid(frames, _reconstruct(tokenizer, frames))


def dream_rows(
    dynamics: Dynamics, segment_frames: Tensor, actions: Tensor, *, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """What happened, what the tokenizer keeps of it, and what the world model makes of the same actions.

    The dream starts at the first frame and takes the real actions; it goes on after a predicted end.

    Args:
        segment_frames: consecutive real frames of one episode, (L, 3, 64, 64) uint8, without padding.
        actions: those taken at the frames, (L,) int64. The last one leads out of the strip and is not read.
        generator: draws the dream's tokens; on the models' device.

    Returns:
        Rows by name, each (L, 3, 64, 64) uint8.
    """
    return {
        "real": segment_frames,
        "reconstruction": _reconstruct(dynamics.tokenizer, segment_frames),
        "dream": _dream(dynamics, segment_frames[:1], actions[:-1], generator),
    }


def labelled_strip(rows: Mapping[str, Tensor]) -> np.ndarray:
    """R named rows of frames, each (L, 3, 64, 64) uint8, with a column a timestep, as one image
    (`LABEL_HEIGHT` + 64 · R, `LABEL_WIDTH` + 64 · L, 3) uint8."""
    length = len(next(iter(rows.values())))
    return _labelled(_grid(*rows.values()), list(rows), [f"t={t}" for t in range(length)])


def save_png(path: str | os.PathLike[str], image: np.ndarray, scale: int = 4) -> None:
    """Write an image with every pixel as a square of `scale` by `scale`, atomically."""
    buffer = BytesIO()
    Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1)).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


@inference
def _reconstruct(tokenizer: Tokenizer, frames: Tensor) -> Tensor:
    return stored_frames(tokenizer.reconstruct(unit_frames(frames)))


@inference
def _dream(dynamics: Dynamics, first: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
    """The L frames (L, 3, 64, 64) uint8 of a dream at the frame `first` (1, 3, 64, 64) under L - 1 `actions`."""
    state = dynamics.start(unit_frames(first))
    frames = [stored_frames(dynamics.decode(state))]
    for t in range(len(actions)):
        state, step = dynamics.step(state, actions[t : t + 1], generator=generator)
        frames.append(stored_frames(step.frame))
    return torch.cat(frames)


def _grid(*rows: Tensor) -> np.ndarray:
    """R rows of frames, each (N, 3, 64, 64) uint8, side by side: (64 · R, 64 · N, 3)."""
    by_pixel = torch.stack(rows).permute(0, 3, 1, 4, 2)  # row, y, column, x, colour
    return by_pixel.reshape(FRAME_SIZE * len(rows), -1, 3).cpu().numpy()


def _labelled(grid: np.ndarray, row_names: Sequence[str], column_names: Sequence[str]) -> np.ndarray:
    """The grid with names on the left and above, white on black."""
    height, width, _ = grid.shape
    picture = Image.new("RGB", (LABEL_WIDTH + width, LABEL_HEIGHT + height))
    picture.paste(Image.fromarray(grid), (LABEL_WIDTH, LABEL_HEIGHT))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for row, name in enumerate(row_names):
        draw.text((2, LABEL_HEIGHT + FRAME_SIZE * (row + 0.5) - 6), name, font=font)
    for column, name in enumerate(column_names):
        draw.text((LABEL_WIDTH + FRAME_SIZE * column + 2, 0), name, font=font)
    return np.array(picture)

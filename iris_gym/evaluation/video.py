"""Episodes of the game and of the dream, and moving pictures of them.

T is the number of steps of an episode. Images are NumPy arrays (height, width, 3) uint8.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.envs.preprocessing import to_frames
from iris_gym.errors import UsageError, one_line
from iris_gym.functional import sample_categorical, stored_frames, unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.imagination.policy import Policy
from iris_gym.models.tokenizer import Tokenizer

BAND = 4
"""Of the bands above and below a frame, the height in pixels of the frame."""

SHARP = ["-crf", "16", "-pix_fmt", "yuv420p"]
"""Keeps the edges of upscaled pixels, and plays everywhere."""

GREEN, RED, WHITE = (90, 220, 110), (240, 90, 80), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Recording:
    """What was seen, done and earned, on the CPU."""

    frames: Tensor  # (T + 1, 3, 64, 64) uint8
    actions: Tensor  # (T,) int64
    rewards: Tensor  # (T,) float32, what the step to frame t + 1 brought
    ends: Tensor  # (T,) bool, whether it terminated the episode

    def with_frames(self, frames: Tensor) -> "Recording":
        return Recording(frames, self.actions, self.rewards, self.ends)


def play(policy: Policy, env: gym.Env, *, seed: int, temperature: float, max_steps: int) -> Recording:
    """An episode of a real environment, up to its end or for `max_steps`."""
    state = policy.initial_state(1)
    device = state[0].device
    generator = torch.Generator(device).manual_seed(seed)
    observation, _ = env.reset(seed=seed)
    frames, steps = [torch.from_numpy(to_frames(observation[None]).copy())], []
    for _ in range(max_steps):
        action, state = policy.act(frames[-1].to(device), state, temperature=temperature, generator=generator)
        observation, reward, terminated, truncated, _ = env.step(int(action))
        frames.append(torch.from_numpy(to_frames(observation[None]).copy()))
        steps.append((int(action), float(reward), terminated))
        if terminated or truncated:
            break
    return _episode(frames, steps)


@inference
def dream(
    dynamics: Dynamics,
    first: Tensor,
    *,
    seed: int,
    max_steps: int,
    policy: Policy | None = None,
    temperature: float = 1.0,
    actions: Tensor | None = None,
) -> Recording:
    """A dream from a frame (3, 64, 64) uint8: the policy's, which acts up to the end, or through given actions (T,).

    Given actions are all taken, past the ends that the world model predicts.
    """
    device = dynamics.device
    generator = torch.Generator(device).manual_seed(seed)
    state = dynamics.start(unit_frames(first[None].to(device)))
    memory = policy.initial_state(1) if policy else None
    frame = dynamics.decode(state)
    frames, steps = [stored_frames(frame).cpu()], []
    for t in range(max_steps if actions is None else len(actions)):
        if actions is None:
            assert policy is not None and memory is not None, "somebody has to act"
            logits, memory = policy.actor_critic.act(frame, memory)
            action = sample_categorical(logits, temperature=temperature, generator=generator)
        else:
            action = actions[t : t + 1].to(device)
        state, step = dynamics.step(state, action, generator=generator)
        frame = step.frame
        frames.append(stored_frames(frame).cpu())
        steps.append((int(action), float(step.reward), bool(step.end)))
        if actions is None and step.end:
            break
    return _episode(frames, steps)


@inference
def reconstruct(tokenizer: Tokenizer, frames: Tensor, device: torch.device, batch: int = 64) -> Tensor:
    """What the tokenizer keeps of frames (T, 3, 64, 64) uint8."""
    parts = frames.split(batch)
    return torch.cat([stored_frames(tokenizer.reconstruct(unit_frames(part.to(device)))).cpu() for part in parts])


def panels(episodes: Mapping[str, Recording], scale: int) -> Iterator[np.ndarray]:
    """Episodes of one length side by side, each under its name, one image a timestep.

    Every pixel becomes a square of `scale` by `scale`. Below stands what the step brought: the reward in this step
    and the return so far, and whether it was an end.
    """
    columns = list(episodes.values())
    returns = [torch.cat((torch.zeros(1), episode.rewards.cumsum(0))) for episode in columns]
    for t in range(len(columns[0].frames)):
        pictures = []
        for name, episode, total in zip(episodes, columns, returns, strict=True):
            reward = float(episode.rewards[t - 1]) if t else 0.0
            end = bool(episode.ends[t - 1]) if t else False
            pictures.append(panel(name, episode.frames[t], reward, float(total[t]), end, scale))
        yield np.concatenate(pictures, axis=1)


def write_video(path: Path, images: Iterable[np.ndarray], fps: float) -> None:
    """Write images of one even size as an mp4 (H.264), whole or not at all, holding one at a time.

    Raises:
        UsageError: moviepy is not installed.
        OSError: the file cannot be written.
    """
    check_video()
    from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
    writer = None
    try:
        for image in images:
            if writer is None:
                size = (image.shape[1], image.shape[0])
                writer = FFMPEG_VideoWriter(str(temporary), size, fps, codec="libx264", ffmpeg_params=SHARP)
            writer.write_frame(image)
        assert writer is not None, "a video has at least one image"
        writer.close()
        os.replace(temporary, path)
    except OSError as error:  # ffmpeg says the same in many lines
        said = str(error)
        why = "No space left on device" if "No space left on device" in said else " ".join(said.split())
        raise OSError(f"the video {str(path)!r} cannot be written: {why}") from error
    finally:
        if writer is not None:
            with suppress(OSError):  # Ctrl-C reaches ffmpeg, too, and what it no longer reads cannot be flushed
                writer.close()
        temporary.unlink(missing_ok=True)


def check_video() -> None:
    """Raise `UsageError` where no video can be written."""
    try:
        import moviepy.video.io.ffmpeg_writer  # noqa: F401, an optional package
        from moviepy.config import FFMPEG_BINARY
    except ImportError as error:
        raise UsageError('a video needs moviepy; run: pip install "iris-gym[video]"') from error
    except (OSError, RuntimeError) as error:  # of imageio-ffmpeg, which is asked at once
        raise UsageError(f"a video needs ffmpeg: {one_line(error)}") from error
    if shutil.which(FFMPEG_BINARY) is None:
        raise UsageError(f"a video needs ffmpeg; {FFMPEG_BINARY!r} is no program")


def panel(name: str, frame: Tensor, reward: float, total: float, end: bool, scale: int) -> np.ndarray:
    """A frame (3, 64, 64) uint8 under its name, and below it the step's reward, the return so far and the end."""
    enlarged = frame.permute(1, 2, 0).numpy().repeat(scale, axis=0).repeat(scale, axis=1)
    height, width, _ = enlarged.shape
    band = BAND * scale
    picture = Image.new("RGB", (width, height + 2 * band))
    picture.paste(Image.fromarray(enlarged), (0, band))
    draw, font = ImageDraw.Draw(picture), _font(scale)
    middle = band // 2
    draw.text((middle, middle), name, font=font, anchor="lm")
    below = height + band + middle
    draw.text((middle, below), f"return {total:g}", font=font, anchor="lm")
    if reward:
        draw.text((width // 2 + band, below), f"{reward:+g}", font=font, fill=GREEN if reward > 0 else RED, anchor="lm")
    if end:
        draw.rectangle((width - 4 * band, height + band, width, height + 2 * band), fill=RED)
        draw.text((width - 2 * band, below), "END", font=font, fill=WHITE, anchor="mm")
    return np.array(picture)


@lru_cache
def _font(scale: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=3 * scale)


def _episode(frames: list[Tensor], steps: list[tuple[int, float, bool]]) -> Recording:
    actions, rewards, ends = zip(*steps, strict=True) if steps else ((), (), ())
    return Recording(
        torch.cat(frames),
        torch.tensor(actions, dtype=torch.int64),
        torch.tensor(rewards, dtype=torch.float32),
        torch.tensor(ends, dtype=torch.bool),
    )

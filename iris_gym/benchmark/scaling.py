"""How time and memory grow with batch, horizon, context and replay."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from iris_gym.assembly import build_models, build_replay, choose_device
from iris_gym.benchmark.measuring import PeakMemory, beyond, timed
from iris_gym.benchmark.noise import fill_with_noise
from iris_gym.benchmark.phases import Bench, bench_env, with_batch
from iris_gym.benchmark.run import measure
from iris_gym.config import IRISConfig
from iris_gym.data.replay import Replay
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.training.frame_cache import FrameCache
from iris_gym.types import FRAME_SHAPE, Segment

SCALES: dict[str, Sequence[int]] = {
    "batch": (1, 4, 16, 64, 256),
    "horizon": (5, 10, 20, 40, 80),
    "context": (5, 10, 20, 40, 80),
    "replay": (1_000, 10_000, 100_000),
}
"""What grows, and to what sizes."""

SCALED = {
    "batch": ("autoencoder", "world_model", "imagination", "actor_critic", "act"),
    "horizon": ("imagination", "actor_critic"),
    "context": ("world_model", "imagination"),
}
"""The phases that depend on it."""

SAMPLES = 25
"""Timings of what takes milliseconds and depends on which pages are in memory."""

ROWS_AT_ONCE = 256
"""Frames of which a cache is told at once, some more than in an update."""

UPPER = 3
"""Sizes, the largest, through which the exponents are laid: at small ones what is constant hides what grows."""


@dataclass(slots=True)
class Growth:
    """Of one thing along one scale, size by size."""

    seconds: list[float] = field(default_factory=list)
    memory: list[int | None] = field(default_factory=list)  # bytes beyond the idle ones

    def entry(self, sizes: Sequence[int]) -> dict[str, Any]:
        return {
            "median_s": self.seconds,
            "exponent": exponent(sizes, self.seconds),
            "memory_bytes": self.memory or [None] * len(sizes),
            "memory_exponent": exponent(sizes, self.memory),
        }


def exponent(sizes: Sequence[int], values: Sequence[float | None]) -> float | None:
    """The slope of a line through the logarithms of the `UPPER` last values; None where one of them is not positive."""
    last = values[-UPPER:]
    if len(last) < 2 or not all(value and value > 0 for value in last):
        return None
    logarithms = [math.log(value) for value in last if value]
    return float(np.polyfit([math.log(size) for size in sizes[-UPPER:]], logarithms, 1)[0])


def scaling(
    config: IRISConfig,
    *,
    preset: str | None = None,
    device: torch.device | str = "auto",
    repeats: int = 5,
    on_size: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Measure along each of `SCALES`, everything else as in the config.

    Updates are with cached frames, where frames are cached. Along the horizon the world model's context is as long as
    the longest rollout, which would else read a part of it again and again; along the context the horizon stays.
    `on_size` is called after each size of each scale.

    Returns:
        What `--json` writes: by scale its `sizes`, and by what was measured `median_s` and `memory_bytes` beyond what
        was in use before (None where nobody knows), each with the `exponent` of its growth at the upper end.
    """
    config.validate()
    chosen_device = choose_device(device)
    with closing(bench_env(config)) as env, build_replay(config, None, device=chosen_device) as replay:
        scales = {scale: _along(scale, config, env, replay, chosen_device, repeats, on_size) for scale in SCALED}
    scales["replay"] = _along_replay(config, chosen_device, repeats, on_size)
    return {"preset": preset, "device": str(chosen_device), "threads": torch.get_num_threads(), "scales": scales}


def _along(
    scale: str,
    config: IRISConfig,
    env: VecEnv,
    replay: Replay,
    device: torch.device,
    repeats: int,
    on_size: Callable[[str], object] | None,
) -> dict[str, Any]:
    growths = {name: Growth() for name in SCALED[scale]}
    for size in SCALES[scale]:
        bench = Bench(_scaled(config, scale, size), env, replay, device, size if scale == "batch" else None)
        for name, growth in growths.items():
            timing = measure(replace(bench.phase(name), cache=None), repeats, device)
            growth.seconds.append(median(timing.seconds) / bench.phase(name).runs)
            growth.memory.append(timing.own_memory)
        if on_size:
            on_size(f"{scale} {size}")
    sizes = SCALES[scale]
    return {"sizes": list(sizes), "measured": {name: growth.entry(sizes) for name, growth in growths.items()}}


def _scaled(config: IRISConfig, scale: str, size: int) -> IRISConfig:
    if scale == "batch":
        return with_batch(config, size)
    if scale == "horizon":
        return config.replace(imagination_horizon=size, transformer_timesteps=max(SCALES["horizon"]))
    return config.replace(transformer_timesteps=size)


def _along_replay(
    config: IRISConfig, device: torch.device, repeats: int, on_size: Callable[[str], object] | None
) -> dict[str, Any]:
    growths = {name: Growth() for name in ("append", "sample", "look_up", "reopen")}
    sizes = SCALES["replay"]
    with tempfile.TemporaryDirectory(prefix="iris_gym_scaling_") as folder:
        for before, size in zip((0, *sizes), sizes, strict=False):
            for name, seconds in _replay_seconds(config, Path(folder), size - before, device, repeats):
                growths[name].seconds.append(seconds)
            growths["reopen"].memory.append(_memory(lambda: Replay(Path(folder)).close(), device))
            growths["look_up"].memory.append(_memory(lambda size=size: _fill_cache(size, config, device), device))
            if on_size:
                on_size(f"replay {size}")
    return {"sizes": list(sizes), "measured": {name: growth.entry(sizes) for name, growth in growths.items()}}


def _replay_seconds(
    config: IRISConfig, folder: Path, more: int, device: torch.device, repeats: int
) -> Iterator[tuple[str, float]]:
    """Of one appended transition, of a world model's batch and of its tokens, known already, and of reopening."""
    with Replay(folder, device=device) as replay:
        yield "append", timed(lambda: fill_with_noise(replay, more, 4), device) / more
        replay.flush()
        generator = np.random.default_rng(0)

        def sample():
            return replay.sample_segments(
                config.transformer_batch_size, config.transformer_timesteps, generator=generator, align="start"
            )

        yield "sample", median(timed(sample, device) for _ in range(SAMPLES))
        cache, segment = FrameCache(build_models(config, 4, device).tokenizer), sample()
        cache.tokens(segment)
        yield "look_up", median(timed(lambda: cache.tokens(segment), device) for _ in range(SAMPLES))
    yield "reopen", median(timed(lambda: Replay(folder).close(), device) for _ in range(repeats))


def _memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that `run` takes at most; None where the system does not tell."""
    memory = PeakMemory(device)
    memory.begin()
    run()
    return beyond(memory.idle, memory.end())


def _fill_cache(rows: int, config: IRISConfig, device: torch.device) -> None:
    """Fill a cache with the tokens and the pictures of so many frames, by networks that compute nothing."""
    cache = FrameCache(cast(Tokenizer, _TrivialTokenizer(config.tokens_per_frame)))
    for first in range(0, rows, ROWS_AT_ONCE):
        chosen = np.arange(first, min(first + ROWS_AT_ONCE, rows))[:, None]
        mask = torch.ones(chosen.shape, dtype=torch.bool, device=device)
        frames = torch.zeros(FRAME_SHAPE, dtype=torch.uint8, device=device).expand(*chosen.shape, *FRAME_SHAPE)
        nothing = torch.zeros(chosen.shape, device=device)
        cache.reconstructions(Segment(frames, nothing.long(), nothing, nothing.bool(), mask, chosen))


class _TrivialTokenizer(nn.Module):
    """A tokenizer to which all frames are the same."""

    def __init__(self, tokens_per_frame: int) -> None:
        super().__init__()
        self.tokens_per_frame = tokens_per_frame

    def encode(self, frames: Tensor) -> Tensor:
        return torch.zeros(len(frames), self.tokens_per_frame, dtype=torch.int64, device=frames.device)

    def decode(self, tokens: Tensor) -> Tensor:
        return torch.zeros(len(tokens), *FRAME_SHAPE, device=tokens.device)

"""Videos and picture strips of an agent in its game and in its dream."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from iris_gym.agent import IRISAgent
from iris_gym.assembly import checked_starts, draw_start_frames, warn_of_untrained
from iris_gym.envs import frames_per_second, make_env
from iris_gym.errors import UsageError
from iris_gym.evaluation import video
from iris_gym.evaluation.evaluate import check_play
from iris_gym.evaluation.pictures import labelled_strip, save_png
from iris_gym.evaluation.video import Recording
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.training.run_folder import RunFolder, check_writable
from iris_gym.untrusted.files import usable_path

Source = Literal["dream", "real", "side-by-side"]

STRIP_LENGTH = 16
"""Timesteps in a picture strip."""


def record(
    agent: IRISAgent | str | Path,
    *,
    source: Source = "side-by-side",
    episodes: int = 1,
    out: str | Path | None = None,
    temperature: float | None = None,
    max_steps: int = 1000,
    min_steps: int = 1,
    scale: int = 6,
    seed: int = 0,
    device: torch.device | str = "auto",
    on_episode: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Write an mp4 an episode, at the game's own pace, and a PNG strip of its first timesteps beside it.

    Args:
        agent: an agent, a run folder or a saved zip.
        source: `dream`, the policy acting in its own dream up to the predicted end; `real`, in the game under the
            evaluation protocol, its frames resized as by the preprocessing `iris`; `side-by-side`, the real frames,
            their reconstructions, and the dream that starts at the first of them and takes the same actions, which
            goes on past the ends it predicts.
        episodes: how many.
        out: the folder to write to. None: `media` of the run, beside the saved zip, or in the working folder.
        temperature: of the policy. None: the agent's `eval_temperature`.
        max_steps: after which an episode is cut.
        min_steps: of a video. Episodes that are over sooner are followed by further ones, each with a seed of its own.
        scale: every pixel becomes a square of so many by so many; even, for the video's sake.
        seed: of the first episode; episode i has `seed + i`.
        device: where to load to.
        on_episode: called with the path of each video as it is written.

    Returns:
        The paths of the videos; a strip has the same name and ends in `.png`.

    Raises:
        UsageError: an argument cannot be used, or moviepy is not installed.
    """
    _check(source, episodes, max_steps, min_steps, scale)
    folder = _folder(agent, out)
    check_writable("out", folder)
    if not isinstance(agent, IRISAgent):
        agent = IRISAgent.load(agent, device=device)
    chosen = agent.config.eval_temperature if temperature is None else temperature
    check_play(chosen, seed)
    if source != "real":
        warn_of_untrained(agent.trainer.updates)
    paths = []
    for index in range(episodes):
        path = folder / f"{source}_{index}.mp4"
        shown, steps = [], 0
        while steps < min_steps:
            further = seed + index + len(shown) * episodes
            shown.append(_episodes(agent, source, seed=further, temperature=chosen, max_steps=max_steps))
            steps += len(next(iter(shown[-1].values())).actions)
        images = chain.from_iterable(video.panels(columns, scale) for columns in shown)
        video.write_video(path, images, frames_per_second(agent.env_id))
        strip = labelled_strip({name: episode.frames[:STRIP_LENGTH] for name, episode in shown[0].items()})
        save_png(path.with_suffix(".png"), strip)
        paths.append(path)
        if on_episode:
            on_episode(path)
    return paths


def _episodes(
    agent: IRISAgent, source: Source, *, seed: int, temperature: float, max_steps: int
) -> dict[str, Recording]:
    """What is to be shown in one video, by name."""
    acting = agent.policy.acting
    dynamics = Dynamics(agent.models.tokenizer, agent.models.world_model)
    if source == "dream":
        first = _start_frame(agent, seed)
        return {
            "dream": video.dream(
                dynamics, first, seed=seed, max_steps=max_steps, policy=acting, temperature=temperature
            )
        }
    if agent.env_id is None:
        raise UsageError(f"source={source!r} needs the id of the environment, and the agent was given an object")
    env = make_env(agent.env_id, evaluation=True, atari_100k=agent.config.atari_100k)
    try:
        real = video.play(acting, env, seed=seed, temperature=temperature, max_steps=max_steps)
    finally:
        env.close()
    if source == "real":
        return {"real": real}
    kept = real.with_frames(video.reconstruct(dynamics.tokenizer, real.frames, dynamics.device))
    dreamt = video.dream(dynamics, real.frames[0], seed=seed, max_steps=max_steps, actions=real.actions)
    return {"real": real, "reconstruction": kept, "dream": dreamt}


def _start_frame(agent: IRISAgent, seed: int) -> torch.Tensor:
    """Where a dream begins: in the replay, or at a frame that was saved with the agent."""
    drawn = draw_start_frames(agent.replay)
    frames = checked_starts(agent.start_frames if drawn is None else drawn)
    return frames[int(np.random.default_rng(seed).integers(len(frames)))]


def _folder(agent: IRISAgent | str | Path, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    if isinstance(agent, IRISAgent):
        return agent.run.media if agent.run else Path("media")
    path = usable_path("run", agent)
    return RunFolder(path).media if path.is_dir() else path.parent / "media"


def _check(source: str, episodes: int, max_steps: int, min_steps: int, scale: int) -> None:
    if source not in get_args(Source):
        raise UsageError(f"source={source!r} is unknown; give one of {', '.join(get_args(Source))}")
    for name, value in (("episodes", episodes), ("max_steps", max_steps), ("min_steps", min_steps)):
        if value < 1:
            raise UsageError(f"{name}={value} is too few; give 1 or more")
    if scale < 2 or scale % 2:
        raise UsageError(f"scale={scale} must be an even number, 2 or more")

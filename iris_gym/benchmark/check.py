"""Hold the projection against a run of a few epochs."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from iris_gym.assembly import build_replay, build_trainer, choose_device
from iris_gym.benchmark.measuring import wait_for
from iris_gym.benchmark.noise import fill_with_noise
from iris_gym.benchmark.phases import bench_env, models_to_time, num_actions, readers
from iris_gym.benchmark.projection import Computed, frames_computed, projected_seconds
from iris_gym.benchmark.run import benchmark
from iris_gym.config import IRISConfig
from iris_gym.errors import UsageError
from iris_gym.training.randomness import RandomStreams
from iris_gym.training.trainer import CollectionEnded, CollectionStarted, EpochEnded, Event, UpdateDone

CHECKED = ("collect", "autoencoder", "world_model", "actor_critic")


def check_projection(
    config: IRISConfig,
    epochs: int,
    *,
    device: torch.device | str = "auto",
    repeats: int = 5,
    on_part: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Project the last `epochs` epochs that collect, train them, and compare.

    Every component learns in them, whatever the config's schedule says. The replay holds noise, as many transitions as
    would have been collected before: the caches serve as they would then. An epoch more comes first, untimed.

    Returns:
        `projected_s` and `real_s`, seconds by phase; `ratios` of the former to the latter and `ratio` of their sums;
        `epochs` and `stored_frames`; and the `benchmark` behind the projection.

    Raises:
        UsageError: the run has not so many epochs.
    """
    config = _all_learning(config, epochs)
    result = benchmark(config, device=device, only=CHECKED, repeats=repeats, on_phase=on_part)
    before = config.max_env_steps - (epochs + 1) * config.env_steps_per_epoch
    real, work, computed = _train(config, before, epochs, choose_device(device), on_part)
    projected = projected_seconds(work, result["phases"], computed)
    assert projected is not None
    return {
        "epochs": epochs,
        "stored_frames": config.max_env_steps,
        "projected_s": projected,
        "real_s": real,
        "ratios": {name: projected[name] / real[name] for name in projected},
        "ratio": sum(projected.values()) / sum(real.values()),
        "benchmark": result,
    }


def _all_learning(config: IRISConfig, epochs: int) -> IRISConfig:
    most = config.max_env_steps // config.env_steps_per_epoch - 1
    if not 1 <= epochs <= most:
        raise UsageError(f"check_epochs={epochs} must lie between 1 and {most}, the epochs that collect but one")
    return config.replace(
        start_autoencoder_after=0,
        start_transformer_after=0,
        start_actor_critic_after=0,
        slow_autoencoder_after=None,
        stop_autoencoder_after=None,
        settled_autoencoder_updates=0,
        autoencoder_first_updates=None,
        transformer_first_updates=None,
        actor_critic_first_updates=None,
        total_epochs=1,  # with the last environment step training ends
    )


def _train(
    config: IRISConfig, before: int, epochs: int, device: torch.device, on_part: Callable[[str], object] | None
) -> tuple[dict[str, float], dict[str, int], dict[str, Computed]]:
    """Seconds and work by phase of the epochs behind the first, and the frames that are computed on average."""
    with closing(bench_env(config)) as env, build_replay(config, None, device=device) as replay:
        fill_with_noise(replay, before, num_actions(env))
        streams = RandomStreams(0, device)
        models = models_to_time(config, num_actions(env), device)
        trainer = build_trainer(config, models, replay, streams, env=env)
        trainer.env_steps = before
        assert trainer.collector is not None
        observations = env.reset()
        assert isinstance(observations, np.ndarray)
        trainer.collector.reset(observations)
        seconds, work = _time_events(trainer.run(config.max_env_steps), device, on_part)
        plans = {learner.name: learner.plan for learner in trainer.learners}
    steps = config.env_steps_per_epoch
    stored = [config.max_env_steps - later * steps for later in reversed(range(epochs))]
    each = frames_computed(readers(plans, config), plans["autoencoder"], stored)
    return seconds, work, {name: sum((epoch[name] for epoch in each), Computed()) for name in each[0]}


def _time_events(
    events: Iterator[Event], device: torch.device, on_part: Callable[[str], object] | None
) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and counts by phase, those of the first epoch left out."""
    seconds, counts = defaultdict[str, float](float), Counter[str]()
    warm, then = False, time.perf_counter()
    for event in events:
        wait_for(device)
        now = time.perf_counter()
        if warm and not isinstance(event, EpochEnded):
            name = event.component if isinstance(event, UpdateDone) else "collect"
            seconds[name] += now - then
            counts[name] += not isinstance(event, CollectionStarted | CollectionEnded)
        if isinstance(event, EpochEnded):
            warm = True
            if on_part:
                on_part(f"epoch {event.epoch}")
        then = time.perf_counter()
    return dict(seconds), dict(counts)

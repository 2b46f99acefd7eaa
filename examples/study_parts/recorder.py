"""Evaluations at given environment steps, of which the training's time knows nothing."""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch

from iris_gym.evaluation.evaluate import evaluate
from iris_gym.evaluation.players import seed_everything
from iris_gym.evaluation.rows import Player, games

from .jobs import Job, steps_until

FIRST_SEED = 1_000_000
"""Of the evaluations' episodes: the same for all agents, and far from the seeds of training."""
MAX_STEPS = 1_000
"""Steps after which an episode is cut. A greedy policy can play MinAtar's Breakout in circles for ever."""


class Recorder:
    """What a job has found so far: `points`, one an evaluation. `settings` is all that the agent was run with."""

    def __init__(
        self, job: Job, settings: Mapping[str, Any] | None = None, *, checkpoints: list[int] | None = None
    ) -> None:
        self.job = job
        self.settings = dict(settings or {})
        self.points: list[dict[str, Any]] = []
        self.reached = False  # whether the job's goal was
        self._checkpoints = job.checkpoints() if checkpoints is None else checkpoints
        self._seconds = np.zeros(2)
        self._since = _clocks()

    def due(self, steps: int, *, learned: bool) -> bool:
        """Whether an agent is to be evaluated that took so many steps, and has `learned` from them or not yet.

        One that learns rarely is evaluated as it stood after the checkpoint's steps, not as it is after later ones.
        """
        return bool(self._checkpoints) and (steps > self._checkpoints[0] or (learned and steps == self._checkpoints[0]))

    def record(self, players: Mapping[str, Player], **more: Any) -> None:
        """Evaluate each way to play, and keep it under the checkpoint that is due."""
        with self.paused():
            evaluations = {name: self._play(player) for name, player in players.items()}
        wall, cpu = self._seconds.round(1).tolist()
        point = {"env_steps": self._checkpoints.pop(0), "seconds": wall, "cpu_seconds": cpu}
        self.points.append(point | more | {"evaluations": evaluations})
        self.reached = self.job.goal is not None and steps_until(self.points[-1:], self.job.goal) is not None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time in here is not the training's."""
        self._seconds += _clocks() - self._since
        yield
        self._since = _clocks()

    def _play(self, player: Player) -> dict[str, float]:
        with own_randomness(self.job.seed):
            scores = evaluate(
                player,
                games(self.job.env_id, atari_100k=False),
                episodes=self.job.sizes.episodes,
                seed=FIRST_SEED,
                max_steps=MAX_STEPS,
            )
        returns = [score.episode_return for score in scores]
        figures = {
            "mean": fmean(returns),
            "deviation": pstdev(returns),
            "solved": fmean(value > 0 for value in returns),
            "length": fmean(score.length for score in scores),
            "cut": fmean(score.truncated for score in scores),
        }
        return {name: round(value, 4) for name, value in figures.items()}


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Global random generators that are seeded in here, and afterwards as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _clocks() -> np.ndarray:
    """Seconds on the wall, and of this process's CPU time."""
    return np.array([time.perf_counter(), time.process_time()])

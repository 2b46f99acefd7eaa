"""Whole episodes in the real environment, as somebody plays them (Micheli et al. 2023, section 3.1 and appendix A)."""

import os
from collections.abc import Callable

from iris_gym.errors import UsageError
from iris_gym.evaluation.rows import EpisodeScore, OpenEnv, Player, Rows, SeedQueue
from iris_gym.evaluation.workers import play_in_processes

ROWS = 8
"""Episodes that a process plays at once: more cost no less each on a CPU, and the worker's last ones are few."""

MAX_STEPS = 27_000
"""Steps after which an episode is cut: what the 108,000 raw frames of an Atari game come to."""


def evaluate(
    player: Player,
    open_env: OpenEnv,
    *,
    episodes: int,
    seed: int,
    workers: int = 1,
    max_steps: int = MAX_STEPS,
    on_episode: Callable[[EpisodeScore], object] | None = None,
) -> list[EpisodeScore]:
    """Play whole episodes with the seeds `seed`, `seed + 1`, …, and count their raw rewards.

    Which episodes are counted is settled beforehand: taking those that end first would favour the short ones. The
    same call gives the same scores to the last digit, and so does any number of workers (as long as torch has one
    thread in this process, too): an episode's actions are drawn from a random stream of its own, and it is always
    computed in the same row of a batch of the same size. Fewer than `ROWS` episodes make a smaller batch, whose
    arithmetic may round differently. The global random states are left alone, unless the player uses them.

    Args:
        player: who plays.
        open_env: makes evaluation environments of one row each.
        episodes: how many to play, 1 or more.
        seed: of the first episode; 0 or more.
        workers: processes to play in; 1 is this one. More of them start anew and import this program's main module,
            which therefore has to guard what it does with `if __name__ == "__main__"`.
        max_steps: after which an episode is cut and counts as truncated.
        on_episode: called with every episode as soon as it ends.

    Returns:
        The scores in the order of their seeds.

    Raises:
        UsageError: an argument is out of its range, the player's actions are none, or a worker was killed.
    """
    _check(episodes, seed, workers, max_steps)
    scores: list[EpisodeScore] = []

    def keep(score: EpisodeScore) -> None:
        scores.append(score)
        if on_episode:
            on_episode(score)

    count = min(episodes, ROWS)
    deal = SeedQueue(seed, episodes, count).deal
    workers = min(workers, most_workers(episodes))
    if workers > 1:
        play_in_processes(player, open_env, count, workers=workers, max_steps=max_steps, deal=deal, on_episode=keep)
    else:
        rows = Rows(player, open_env, count, max_steps=max_steps)
        try:
            rows.play(deal, keep)
        finally:
            rows.close()
    return sorted(scores, key=lambda score: score.seed)


def most_workers(episodes: int) -> int:
    """Processes that so many episodes can occupy."""
    return -(-episodes // ROWS)


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_play(temperature: float, seed: int) -> None:
    """Raise `UsageError` where nobody can act at this temperature, or no environment takes this seed."""
    check_temperature(temperature)
    _check_seed(seed)


def check_temperature(temperature: float) -> None:
    """Raise `UsageError` where nobody can act at this temperature."""
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"temperature: {temperature} is not usable; give 0 for the likeliest action, or more")


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"seed: {seed} is negative; environments take 0 or more")
    if seed >= 2**32:
        raise UsageError(f"seed: {seed} is too great; give one below 2**32")


def _check(episodes: int, seed: int, workers: int, max_steps: int) -> None:
    for name, value in (("episodes", episodes), ("workers", workers), ("max_steps", max_steps)):
        if value < 1:
            raise UsageError(f"{name}: {value} is too few; give 1 or more")
    _check_seed(seed)
    _check_seed(seed + episodes - 1)

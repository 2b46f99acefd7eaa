"""From episodes to the figures that are published: `scores.json` of a run folder."""

import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from statistics import fmean, stdev
from typing import Any

from iris_gym.envs import is_atari
from iris_gym.errors import UsageError
from iris_gym.evaluation.evaluate import EpisodeScore
from iris_gym.evaluation.files import write_atomically
from iris_gym.untrusted.documents import parse_json, read_document

PACKAGES = ("iris_gym", "torch", "gymnasium", "ale-py", "stable-baselines3", "numpy")
"""What a score depends on."""


def human_normalized(env_id: str, mean: float) -> float | None:
    """(mean - random) / (human - random): 0 is a random player, 1 a human (Mnih et al. 2015).

    None where `env_id` is none of the 26 games of Atari 100k. MinAtar's games of the same names are others.
    """
    table, random = reference_scores(), random_score(env_id)
    return None if random is None else (mean - random) / (table["human"][atari_game(env_id)] - random)


def random_score(env_id: str) -> float | None:
    """The published mean score of a random player; None where `env_id` is none of the 26 games of Atari 100k."""
    return reference_scores()["random"].get(atari_game(env_id))


@cache
def reference_scores() -> dict[str, Any]:
    """The packaged table: "human" and "random" mean scores a game, and "runs" of published agents (its "about")."""
    text = resources.files("iris_gym.evaluation").joinpath("atari_100k_scores.json").read_text(encoding="utf-8")
    return json.loads(text)


def summary(env_id: str, scores: Sequence[EpisodeScore], protocol: dict[str, Any]) -> dict[str, Any]:
    """What `scores.json` holds, of at least one episode.

    The standard error of the mean is the sample's standard deviation over √n, None for one episode. `protocol` says
    how the episodes were played (temperature, preprocessing, …) and is taken as it is.
    """
    returns = [score.episode_return for score in scores]
    mean = fmean(returns)
    return {
        "env": env_id,
        "episodes": [_as_dict(score) for score in scores],
        "mean": mean,
        "standard_error": stdev(returns) / math.sqrt(len(returns)) if len(returns) > 1 else None,
        "human_normalized": human_normalized(env_id, mean),
        "protocol": protocol,
        "versions": versions(),
    }


def mean_and_error(summary: Mapping[str, Any]) -> str:
    """The mean return of a `summary` and, of more than one episode, its standard error."""
    error = summary["standard_error"]
    return f"{summary['mean']:.2f}" + (f" ± {error:.2f}" if error is not None else "")


def cut_episodes(summary: Mapping[str, Any]) -> int:
    """How many episodes of a `summary` the evaluation cut, rather than the environment by a limit of its own."""
    limit = summary["protocol"]["max_steps"]
    return sum(episode["truncated"] and episode["length"] >= limit for episode in summary["episodes"])


def write_scores(path: str | os.PathLike[str], summary: dict[str, Any]) -> None:
    """Write a `summary` as JSON, atomically."""
    write_atomically(path, (json.dumps(summary, indent=2) + "\n").encode())


def read_scores(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_scores` wrote. Raises `UsageError` for any other file."""
    try:
        scores = parse_json(read_document(os.fspath(path), repr(os.fspath(path))))
        optional = [scores[name] for name in ("standard_error", "human_normalized") if scores[name] is not None]
        if not isinstance(scores["episodes"], list) or not all(map(math.isfinite, [scores["mean"], *optional])):
            raise ValueError("no list of episodes, or a score that is no number")
    except UsageError:
        raise
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise UsageError(f"{os.fspath(path)!r} is not what iris-gym evaluate writes; evaluate again") from error
    return scores


def steps_of(scores: Mapping[str, Any]) -> int | None:
    """Environment steps that the agent had been trained for; None where that is not known."""
    protocol = scores.get("protocol")
    return protocol.get("env_steps_trained") if isinstance(protocol, dict) else None


def atari_game(env_id: str) -> str | None:
    """The Atari game of an id, "Pong" of `ALE/Pong-v5` and of the older `PongNoFrameskip-v4`; None of any other."""
    name = re.fullmatch(r"(?:ALE/)?(\w+?)(?:NoFrameskip|Deterministic)?-v\d+", env_id.rpartition(":")[2])
    return name[1] if name and is_atari(env_id) else None


def _as_dict(score: EpisodeScore) -> dict[str, Any]:
    return {
        "return": score.episode_return,
        "length": score.length,
        "seed": score.seed,
        "truncated": score.truncated,
    }


def versions() -> dict[str, str | None]:
    """Of Python and of what a figure depends on."""
    return {package: _version(package) for package in PACKAGES} | {"python": platform.python_version()}


def _version(package: str) -> str | None:
    """The version of an installed package; None where it runs from a source folder."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

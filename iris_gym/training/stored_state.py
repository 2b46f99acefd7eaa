"""What the entries of a stored state have to be, whoever stored them: kinds, ranges, and nothing missing."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from iris_gym.envs.preprocessing import MAX_ACTIONS, MAX_SIDE
from iris_gym.errors import UsageError
from iris_gym.training.muon import Muon
from iris_gym.untrusted.documents import shown
from iris_gym.untrusted.tensors import TensorSpec, check_tensors

Check = Callable[[Any], str | None]
"""What a value has to be, in words, where it is something else; None where it is that."""

Entries = Mapping[str, "Check | Entries"]

COUNT = 2**53
"""Above every counter. Floats hold whole numbers up to it."""

MAX_START_FRAMES = 4_096
"""50 MB."""

MAX_RANDOM_STATE = 10_000
"""Bytes; those of torch's generators have 5,056 on a CPU and 16 on a GPU."""

MAX_METRICS = 1_000

MAX_METRIC = 1_000_000
"""Bytes; the largest counts how often each code of a codebook was used."""

RANDOM_STATES, CUDA_STATE = ("collecting", "imagining", "predicting", "global"), "global_cuda"
"""Those of every training, and the one that it has only where there is a GPU."""

GLOBAL_STATES = {
    "random.global_numpy": TensorSpec(torch.float64, (627,)),
    "random.global_python": TensorSpec(torch.float64, (626,)),
}

ANY = TensorSpec(torch.uint8, ())
"""Stands for a tensor that is missing."""


def whole(least: int, most: int) -> Check:
    def check(value: Any) -> str | None:
        fits = type(value) is int and least <= value <= most
        return None if fits else f"a whole number from {least} to {most}"

    return check


def optional(check: Check) -> Check:
    return lambda value: None if value is None or not (words := check(value)) else f"{words}, or null"


def text(value: Any) -> str | None:
    return None if isinstance(value, str) and len(value) <= 200 else "a text of at most 200 characters"


def text_of(most: int) -> Check:
    return lambda value: (
        None if isinstance(value, str) and len(value) <= most else f"a text of at most {most} characters"
    )


def list_of(check: Check, most: int = 1_000_000) -> Check:
    def check_all(value: Any) -> str | None:
        fits = isinstance(value, list) and len(value) <= most and not any(map(check, value))
        return None if fits else f"a list, of at most {most}"

    return check_all


def mapping(value: Any) -> str | None:
    return None if isinstance(value, dict) else "a mapping"


def image_shape(value: Any) -> str | None:
    fits = isinstance(value, list) and len(value) in (2, 3) and all(not whole(1, MAX_SIDE)(side) for side in value)
    return None if fits else f"the shape of an image, with sides of at most {MAX_SIDE}"


def counts(value: Any) -> str | None:
    fits = isinstance(value, dict) and len(value) <= MAX_METRICS and not any(map(whole(1, COUNT), value.values()))
    return None if fits else f"a mapping of at most {MAX_METRICS} names to whole numbers greater than 0"


def real(value: Any) -> str | None:
    fits = (type(value) is int and abs(value) <= COUNT) or (isinstance(value, float) and math.isfinite(value))
    return None if fits else "a finite number"


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def exactly(expected: str) -> Check:
    return lambda value: None if value == expected else repr(expected)


counter = whole(0, COUNT)


UPDATES: Entries = {"autoencoder": counter, "world_model": counter, "actor_critic": counter}

AGENT: Entries = {
    "config": mapping,
    "env": optional(text),
    "num_actions": whole(1, MAX_ACTIONS),
    "observation_shape": image_shape,
    "n_envs": whole(1, 65_536),
    "seed": optional(whole(0, 2**32 - 1)),
    "num_timesteps": counter,
}
"""What there is to know of every stored agent."""

SHARED: Entries = {**AGENT, "updates": UPDATES}
"""Of one that was stored without its training."""

TRAINING: Entries = {
    **AGENT,
    "replay_rows": counter,
    "trainer": {
        "position": {"epoch": whole(1, COUNT), "phase": whole(0, len(UPDATES) + 1), "done": counter},
        "env_steps": counter,
        "updates": UPDATES,
        "metric_counts": counts,
    },
    "sampling": {
        "bit_generator": exactly("PCG64"),
        "state": {"state": whole(0, 2**128 - 1), "inc": whole(0, 2**128 - 1)},
        "has_uint32": whole(0, 1),
        "uinteger": whole(0, 2**32 - 1),
    },
}
"""Of one that goes on training where it was stored."""


RANDOM_STATE = TRAINING["sampling"]

GAME: Entries = {"emulator": text_of(1_000_000), "random": RANDOM_STATE, "layers": list_of(mapping, 100)}
"""The state of an Atari game, as `envs.state` keeps it."""

COLLECTION: Entries = {
    "resets": optional(list_of(counter)),
    "games": optional(list_of(mapping, 65_536)),
    "open_environments": list_of(whole(0, 65_535), 65_536),
}
"""Where a collection stands in its environment."""

LOGS: Entries = {"lines": counter, "events": mapping}

STATISTICS: Entries = {
    "episode_starts": list_of(flag, 65_536),
    "episode_num": counter,
    "episodes": list_of(mapping, 1_000_000),
    "successes": list_of(real),
}
"""What Stable-Baselines3 counts."""


SETTINGS: Entries = {"env": AGENT["env"], "seed": AGENT["seed"]}
"""Of a run that has saved nothing yet."""


def check_run(state: Mapping[str, Any], source: str) -> None:
    """The entries that not every training has, where they are there."""
    if "steps_before" in state:
        check_entries(state, {"steps_before": counter}, source)
    for name, entries in (("collection", COLLECTION), ("logs", LOGS), ("agent", STATISTICS)):
        if state.get(name) is not None:
            check_entries(state[name], entries, f"{source}.{name}")
    for game in state.get("collection", {}).get("games") or ():
        check_entries(game, GAME, f"{source}.collection.games")
    for episode in state.get("agent", {}).get("episodes", ()):
        check_entries(episode, {"r": real, "l": real, "t": real}, f"{source}.agent.episodes")
    if "agent" in state and len(state["agent"]["episode_starts"]) != state["n_envs"]:
        raise UsageError(f"{source}.agent.episode_starts must be {state['n_envs']}, one for each environment")
    if (logs := state.get("logs")) and any(map(counter, logs["events"].values())):
        raise UsageError(f"{source}.logs.events must map names to sizes")


def check_entries(values: Any, expected: Entries, source: str) -> None:
    """Raise `UsageError` for the first entry that is missing, no such value, or one too many in a mapping within.

    Others in `values` itself are not read.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{source}={shown(values)} must be a mapping")
    for name, check in expected.items():
        if name not in values:
            raise UsageError(f"{source} lacks {name!r}")
        if isinstance(check, Mapping):
            check_entries(values[name], check, f"{source}.{name}")
            if unknown := sorted(values[name].keys() - check.keys()):
                raise UsageError(f"{source}.{name} has an unexpected entry {shown(unknown[0])}")
        elif words := check(values[name]):
            raise UsageError(f"{source}.{name}={shown(values[name])} must be {words}")


def check_start_frames(found: Mapping[str, TensorSpec], shape: tuple[int, ...], source: str) -> None:
    """Raise `UsageError` unless the file holds "frames", uint8 (S, *shape), of at least one and not too many."""
    spec = found.get("frames")
    count = spec.shape[0] if spec and spec.shape else 0
    if not 1 <= count <= MAX_START_FRAMES:
        raise UsageError(f"{source} must hold from 1 to {MAX_START_FRAMES} frames")
    check_tensors(found, {"frames": TensorSpec(torch.uint8, (count, *shape))}, source)


def check_training_tensors(
    found: Mapping[str, TensorSpec],
    optimizers: Mapping[str, Optimizer],
    metrics: Collection[str],
    collection: Mapping[str, TensorSpec],
    source: str,
) -> None:
    """Raise `UsageError` unless these are moments of the optimizers, all random states, the sums of all `metrics`, and
    all or none of a `collection`.

    A parameter that was never updated has no moments yet.
    """
    random = {name: found[f"random.{name}"] for name in (*RANDOM_STATES, CUDA_STATE) if f"random.{name}" in found}
    sums = {name: found[f"metric.{name}"] for name in metrics if f"metric.{name}" in found}
    for name, spec in random.items():
        if spec.dtype != torch.uint8 or len(spec.shape) != 1 or spec.size > MAX_RANDOM_STATE:
            raise UsageError(f"{source}: tensor 'random.{name}' is {spec}, no state of a random generator")
    for name, spec in sums.items():
        if len(spec.shape) > 1 or spec.size > MAX_METRIC:
            raise UsageError(f"{source}: tensor {shown('metric.' + name)} is {spec}, no sum of a metric")
    expected = _moments(found, optimizers)
    expected |= {f"random.{name}": random.get(name, ANY) for name in {*RANDOM_STATES, *random}}
    expected |= {name: spec for name, spec in GLOBAL_STATES.items() if name in found}
    expected |= collection if found.keys() & collection.keys() else {}
    expected |= {f"metric.{name}": sums.get(name, ANY) for name in metrics}
    check_tensors(found, expected, source)


def _moments(found: Mapping[str, TensorSpec], optimizers: Mapping[str, Optimizer]) -> dict[str, TensorSpec]:
    """What the optimizers keep of each parameter of which `found` has something."""
    specs = {}
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            kept = {f"optimizer.{name}.{index}.{key}": spec for key, spec in _kept(optimizer, parameter).items()}
            specs |= kept if found.keys() & kept.keys() else {}
    return specs


def _kept(optimizer: Optimizer, parameter: Tensor) -> dict[str, TensorSpec]:
    """Two moments, or where Muon moves a matrix one, and how many steps were taken."""
    moment, count = TensorSpec.of(parameter), TensorSpec(torch.float32, ())
    if isinstance(optimizer, Muon) and parameter in optimizer.matrices:
        return {"exp_avg": moment, "step": count}
    return {"exp_avg": moment, "exp_avg_sq": moment, "step": count}

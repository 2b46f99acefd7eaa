"""What the entries of a stored state have to be, whoever stored them: kinds, ranges, and nothing missing."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import shown
from iris_gym.untrusted.tensors import TensorSpec, check_tensors

Check = Callable[[Any], str | None]
"""What a value has to be, in words, where it is something else; None where it is that."""

Entries = Mapping[str, "Check | Entries"]

COUNT = 2**53
"""Above every counter. Floats hold whole numbers up to it."""

MAX_SIDE = 2_048
"""Pixels of an observation's side; its space holds two numbers for every pixel."""

MAX_START_FRAMES = 4_096
"""50 MB."""

MAX_RANDOM_STATE = 10_000
"""Bytes; those of torch's generators have 5,056 on a CPU and 16 on a GPU."""

MAX_METRICS = 1_000

MAX_METRIC = 1_000_000
"""Bytes; the largest counts how often each code of a codebook was used."""

RANDOM_STATES, CUDA_STATE = ("collecting", "imagining", "predicting", "global"), "global_cuda"
"""Those of every training, and the one that it has only where there is a GPU."""

HOST_STATES = {"global_numpy": 627, "global_python": 626}
"""Of NumPy and of Python, as float64, and how many numbers each has."""

COLLECTION = "collection."
"""Begins the names of the tensors of an environment that a run stands in."""

MAX_COLLECTION = 2**30
"""Bytes of these all."""

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


def mapping(value: Any) -> str | None:
    return None if isinstance(value, dict) else "a mapping"


def image_shape(value: Any) -> str | None:
    fits = isinstance(value, list) and len(value) in (2, 3) and all(not whole(1, MAX_SIDE)(side) for side in value)
    return None if fits else f"the shape of an image, with sides of at most {MAX_SIDE}"


def counts(value: Any) -> str | None:
    fits = isinstance(value, dict) and len(value) <= MAX_METRICS and not any(map(whole(1, COUNT), value.values()))
    return None if fits else f"a mapping of at most {MAX_METRICS} names to whole numbers greater than 0"


def exactly(expected: str) -> Check:
    return lambda value: None if value == expected else repr(expected)


counter = whole(0, COUNT)

UPDATES: Entries = {"autoencoder": counter, "world_model": counter, "actor_critic": counter}

AGENT: Entries = {
    "config": mapping,
    "env": optional(text),
    "num_actions": whole(1, 65_536),
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
    found: Mapping[str, TensorSpec], optimizers: Mapping[str, Optimizer], metrics: Collection[str], source: str
) -> None:
    """Raise `UsageError` unless these are moments of the optimizers, all random states, and the sums of all `metrics`.

    A parameter that was never updated has no moments yet.
    """
    random = {name: found[f"random.{name}"] for name in (*RANDOM_STATES, CUDA_STATE) if f"random.{name}" in found}
    standing = {name: spec for name, spec in found.items() if name.startswith(COLLECTION)}
    if sum(spec.size for spec in standing.values()) > MAX_COLLECTION:
        raise UsageError(f"{source}: the tensors of its environment have more than {MAX_COLLECTION:,} bytes")
    sums = {name: found[f"metric.{name}"] for name in metrics if f"metric.{name}" in found}
    for name, spec in random.items():
        if spec.dtype != torch.uint8 or len(spec.shape) != 1 or spec.size > MAX_RANDOM_STATE:
            raise UsageError(f"{source}: tensor 'random.{name}' is {spec}, no state of a random generator")
    for name, spec in sums.items():
        if len(spec.shape) > 1 or spec.size > MAX_METRIC:
            raise UsageError(f"{source}: tensor {shown('metric.' + name)} is {spec}, no sum of a metric")
    expected = _moments(found, optimizers)
    expected |= {f"random.{name}": random.get(name, ANY) for name in {*RANDOM_STATES, *random}}
    expected |= {f"metric.{name}": sums.get(name, ANY) for name in metrics}
    expected |= {
        f"random.{name}": TensorSpec(torch.float64, (length,))
        for name, length in HOST_STATES.items()
        if f"random.{name}" in found
    }
    expected |= standing
    check_tensors(found, expected, source)


def _moments(found: Mapping[str, TensorSpec], optimizers: Mapping[str, Optimizer]) -> dict[str, TensorSpec]:
    """What Adam keeps of each parameter of which `found` has something."""
    specs = {}
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            keys = {f"optimizer.{name}.{index}.{key}": TensorSpec.of(parameter) for key in ("exp_avg", "exp_avg_sq")}
            keys[f"optimizer.{name}.{index}.step"] = TensorSpec(torch.float32, ())
            specs |= keys if found.keys() & keys.keys() else {}
    return specs

"""A training as part of a `Snapshot`: counters and position as JSON; moments, random states and metrics as tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from iris_gym.training.checkpoint import Snapshot, load_optimizers, optimizer_tensors
from iris_gym.training.collector import Collector
from iris_gym.training.randomness import RandomStreams
from iris_gym.training.trainer import Trainer


def training_state(trainer: Trainer, streams: RandomStreams) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `restore_training` needs: entries of `Snapshot.state`, and all of `Snapshot.training`."""
    optimizers = {learner.name: learner.optimizer for learner in trainer.learners}
    tensors = (
        _prefixed("optimizer", optimizer_tensors(optimizers))
        | _prefixed("random", streams.state_dict())
        | _prefixed("metric", trainer.metrics.sums)
    )
    state = {"trainer": trainer.state_dict(), "steps_before": trainer.steps_before}
    return state | {"sampling": streams.sampling.bit_generator.state}, tensors


def restore_training(snapshot: Snapshot, trainer: Trainer, streams: RandomStreams) -> None:
    """Put a training where a snapshot left it. Of shared and published agents, whose schedule begins anew, nothing
    is known but how often each component has learned, and from how many steps."""
    if not snapshot.training:
        trainer.steps_before = snapshot.steps_trained
        for learner in trainer.learners:
            learner.updates = snapshot.updates[learner.name]
        return
    optimizers = {learner.name: learner.optimizer for learner in trainer.learners}
    load_optimizers(optimizers, _under("optimizer", snapshot.training))
    streams.load_state_dict(_under("random", snapshot.training))
    streams.sampling.bit_generator.state = snapshot.state["sampling"]
    trainer.load_state_dict(snapshot.state["trainer"], _under("metric", snapshot.training))
    trainer.steps_before = snapshot.steps_trained - trainer.env_steps


def collection_state(collector: Collector, observations: np.ndarray) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `restore_collection` needs of a collection that stands at `observations`: an entry of `Snapshot.state`, and
    part of `Snapshot.training`."""
    state, tensors = collector.state_dict()
    tensors = _prefixed("collection", tensors | {"observations": from_numpy(observations)})
    return {"collection": state | {"open_environments": collector.replay.open_environments}}, tensors


def restore_collection(snapshot: Snapshot, collector: Collector) -> np.ndarray | None:
    """Bring a collector and its environment where a snapshot left them; returns the observations at which they stand.

    None where the snapshot tells nothing of it, or the environment cannot be brought there.
    """
    tensors = _under("collection", snapshot.training)
    if "collection" not in snapshot.state or not tensors:
        return None
    observations = tensors.pop("observations").numpy()
    return observations if collector.load_state_dict(snapshot.state["collection"], tensors, observations) else None


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}

"""What a stored agent has to look like, told by its own config before anything of it is built or read."""

from collections.abc import Mapping
from typing import Any

import torch

from iris_gym.assembly import Models, build_learners, create_models
from iris_gym.config import IRISConfig
from iris_gym.errors import UsageError
from iris_gym.training.checkpoint import START_FRAMES_FILE, STATE_FILE, TRAINING_FILE, WEIGHTS_FILE, module_tensors
from iris_gym.training.randomness import RandomStreams
from iris_gym.training.stored_state import (
    SHARED,
    TRAINING,
    Entries,
    check_entries,
    check_run,
    check_start_frames,
    check_training_tensors,
)
from iris_gym.types import FRAME_SHAPE
from iris_gym.untrusted.tensors import TensorSpec, check_tensors

Headers = Mapping[str, Mapping[str, TensorSpec]]
"""The tensors that each file declares, by file."""


def check_stored(state: dict[str, Any], headers: Headers, source: str) -> None:
    """Raise `UsageError` unless a checkpoint's or a saved file's state is complete and all its tensors fit it."""
    config, models = _expected(state, TRAINING, f"{source}: {STATE_FILE}")
    check_weights(models, headers[WEIGHTS_FILE], source)
    plain = config.replace(novelty_weight=0.0, imitation_share=0.0)  # these need a replay, and have nothing stored
    with torch.device("meta"):
        learners = build_learners(plain, models, RandomStreams(0, torch.device("cpu")))
    optimizers = {learner.name: learner.optimizer for learner in learners}
    check_run(state, f"{source}: {STATE_FILE}")
    metrics, collection = state["trainer"]["metric_counts"], _collection(state, config.lstm_dim)
    check_training_tensors(headers[TRAINING_FILE], optimizers, metrics, collection, source)
    _check_starts(headers, source)


def check_shared(state: dict[str, Any], headers: Headers, source: str, *, weights: str, document: str) -> None:
    """The same of an agent without its training, whose files have other names."""
    _, models = _expected(state, SHARED, f"{source}: {document}")
    check_weights(models, headers[weights], source)
    _check_starts(headers, source)


def expected_bytes(state: dict[str, Any], source: str) -> int:
    """How many bytes the weights of an agent with this state have."""
    _, models = _expected(state, SHARED, source)
    return sum(TensorSpec.of(tensor).size for tensor in module_tensors(models.by_name()).values())


def check_weights(models: Models, found: Mapping[str, TensorSpec], source: str) -> None:
    """Raise `UsageError` for a missing, unexpected or misshapen tensor; `models` may lie on the device meta."""
    tensors = module_tensors(models.by_name())
    check_tensors(found, {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}, source)


def _expected(state: dict[str, Any], entries: Entries, source: str) -> tuple[IRISConfig, Models]:
    """Config and networks, on the device meta: names and shapes, but no memory."""
    check_entries(state, entries, source)
    try:
        config = IRISConfig.from_dict(state["config"])
    except UsageError as error:
        raise UsageError(f"{source} holds a config that cannot be used: {error}") from error
    with torch.device("meta"):
        return config, create_models(config, state["num_actions"])


def _collection(state: Mapping[str, Any], lstm_dim: int) -> dict[str, TensorSpec]:
    """Where the environments and the LSTM stand."""
    rows = state["n_envs"]
    memory = TensorSpec(torch.float32, (rows, lstm_dim))
    observations = TensorSpec(torch.uint8, (rows, *state["observation_shape"]))
    return {"collection.hidden": memory, "collection.cell": memory, "collection.observations": observations}


def _check_starts(headers: Headers, source: str) -> None:
    if START_FRAMES_FILE in headers:
        check_start_frames(headers[START_FRAMES_FILE], FRAME_SHAPE, f"{source}: {START_FRAMES_FILE}")

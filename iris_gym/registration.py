"""The factories behind `IrisGym/Dream-v0`: dreams of a saved agent, without its environment, replay or optimizers."""

import re
from pathlib import Path
from typing import Any

import torch

from iris_gym.assembly import Models, build_dream, build_models, checked_starts, choose_device, warn_of_untrained
from iris_gym.config import IRISConfig
from iris_gym.dream import DreamEnv, DreamVectorEnv
from iris_gym.envs import frames_per_second
from iris_gym.errors import UsageError
from iris_gym.hub import read_shared
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.stored import check_stored
from iris_gym.training.checkpoint import Snapshot, is_shared, load_modules
from iris_gym.training.run_folder import read_snapshot, saved_file
from iris_gym.untrusted.files import usable_path


def make_dream(
    checkpoint: str | Path, *, device: torch.device | str = "auto", start_frames: Any = None, **keywords: Any
) -> DreamEnv:
    """One dream, for `gymnasium.make("IrisGym/Dream-v0", checkpoint=…)`.

    Args:
        checkpoint: a run folder, a saved zip, a folder that `save_pretrained` wrote, or `owner/name` on the hub.
        device: auto, cpu, cuda or cuda:N.
        start_frames: where dreams begin. None: at the frames that were saved with the agent.
        keywords: those of `DreamEnv`.

    Raises:
        UsageError: the checkpoint or a keyword cannot be used.
    """
    snapshot, models = _load(checkpoint, device)
    starts = checked_starts(snapshot.start_frames if start_frames is None else start_frames)
    env = DreamEnv(Dynamics(models.tokenizer, models.world_model), start_frames=starts, **keywords)
    env.metadata["render_fps"] = frames_per_second(snapshot.state["env"])
    return env


def make_dream_vec(
    checkpoint: str | Path,
    num_envs: int = 1,
    *,
    device: torch.device | str = "auto",
    start_frames: Any = None,
    **keywords: Any,
) -> DreamVectorEnv:
    """Several dreams, for `gymnasium.make_vec("IrisGym/Dream-v0", num_envs=…, checkpoint=…)`; see `make_dream`."""
    snapshot, models = _load(checkpoint, device)
    starts = snapshot.start_frames if start_frames is None else start_frames
    return build_dream(models, num_envs, env_id=snapshot.state["env"], start_frames=starts, **keywords)


# Gymnasium looks here for what it can render, and adds its wrappers for "human" and "rgb_array_list" by it.
make_dream.metadata = DreamEnv.metadata  # type: ignore[attr-defined]


def _load(checkpoint: str | Path, device: torch.device | str) -> tuple[Snapshot, Models]:
    snapshot = _read(checkpoint)
    config = IRISConfig.from_dict(snapshot.state["config"])
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are overwritten
        models = build_models(config, snapshot.state["num_actions"], choose_device(device))
    load_modules(models.by_name(), snapshot.weights, repr(str(checkpoint)))
    warn_of_untrained(snapshot.updates, stacklevel=5)
    return snapshot, models


def _read(checkpoint: str | Path) -> Snapshot:
    if not isinstance(checkpoint, str | Path):
        raise UsageError(
            f"checkpoint is a {type(checkpoint).__name__}; give the path of a run folder or of a saved zip, "
            "since Gymnasium copies what it is given; agent.make_dream_env dreams with live networks"
        )
    path = usable_path("checkpoint", checkpoint)
    is_local = path.exists() or saved_file(path).exists() or path.suffix == ".zip"
    is_hub_id = not is_local and re.fullmatch(r"[\w.-]+/[\w.-]+", str(checkpoint))
    return read_shared(checkpoint) if is_shared(path) or is_hub_id else read_snapshot(path, check_stored)

"""IRIS, reinforcement learning inside a learned world model, for Gymnasium and Stable-Baselines3."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register, registry

if TYPE_CHECKING:
    from iris_gym import dream
    from iris_gym.agent import IRISAgent
    from iris_gym.assembly import build_models
    from iris_gym.config import IRISConfig
    from iris_gym.envs import make_env
    from iris_gym.errors import UsageError
    from iris_gym.recording import record
    from iris_gym.reporting import report

__version__ = version("iris-gym")
__all__ = ["IRISAgent", "IRISConfig", "UsageError", "build_models", "dream", "make_env", "record", "report"]

_HOMES = {
    "IRISAgent": "iris_gym.agent",
    "IRISConfig": "iris_gym.config",
    "UsageError": "iris_gym.errors",
    "build_models": "iris_gym.assembly",
    "make_env": "iris_gym.envs",
    "record": "iris_gym.recording",
    "report": "iris_gym.reporting",
}

if "IrisGym/Dream-v0" not in registry:  # a module may be imported anew
    register(
        "IrisGym/Dream-v0",
        entry_point="iris_gym.registration:make_dream",
        vector_entry_point="iris_gym.registration:make_dream_vec",
    )


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: torch takes seconds, and the command line prepares for it."""
    if name == "dream":
        return import_module("iris_gym.dream")
    if name not in _HOMES:
        raise AttributeError(f"module 'iris_gym' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

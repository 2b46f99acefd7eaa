"""IRIS, reinforcement learning inside a learned world model, for Gymnasium and Stable-Baselines3."""

from importlib.metadata import version

from iris_gym.agent import IRISAgent
from iris_gym.assembly import build_models
from iris_gym.config import IRISConfig
from iris_gym.envs import make_env
from iris_gym.errors import UsageError

__version__ = version("iris-gym")
__all__ = ["IRISAgent", "IRISConfig", "UsageError", "build_models", "make_env"]

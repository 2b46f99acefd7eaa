"""The dream as an environment: for Gymnasium on tensors and on arrays, and for Stable-Baselines3."""

from iris_gym.dream.env import DreamEnv
from iris_gym.dream.sb3 import DreamSB3VecEnv
from iris_gym.dream.vector_env import DreamSnapshot, DreamVectorEnv

__all__ = ["DreamEnv", "DreamSB3VecEnv", "DreamSnapshot", "DreamVectorEnv"]

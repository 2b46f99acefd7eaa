"""Real environments, as the agent sees them."""

from iris_gym.envs.atari import AtariVecEnv, is_atari, make_atari
from iris_gym.envs.factory import make_env, make_vec_env
from iris_gym.envs.preprocessing import batched, check_spaces, resize, to_frames

__all__ = [
    "AtariVecEnv",
    "batched",
    "check_spaces",
    "is_atari",
    "make_atari",
    "make_env",
    "make_vec_env",
    "resize",
    "to_frames",
]

"""Real environments, as the agent sees them."""

from iris_gym.envs.atari import AtariVecEnv, is_atari, make_atari
from iris_gym.envs.factory import CheckedObservations, frames_per_second, make_env, make_vec_env
from iris_gym.envs.preprocessing import batched, check_spaces, resize, to_frames

__all__ = [
    "AtariVecEnv",
    "CheckedObservations",
    "batched",
    "check_spaces",
    "frames_per_second",
    "is_atari",
    "make_atari",
    "make_env",
    "make_vec_env",
    "resize",
    "to_frames",
]

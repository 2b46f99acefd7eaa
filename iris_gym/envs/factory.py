"""Environments by their ids, as the agent sees them: images of (64, 64, 3) uint8 and actions counted from 0."""

from functools import partial
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from iris_gym.envs.atari import ACTION_REPEAT, AtariVecEnv, is_atari, make_atari
from iris_gym.envs.minatar import MinAtarImages
from iris_gym.envs.preprocessing import IMAGE_SHAPE, check_spaces, image_space, to_image
from iris_gym.envs.registry import find_spec, is_known, make
from iris_gym.errors import UsageError

PREPROCESSINGS = ("iris", "ale")


def make_env(
    env_id: str, *, evaluation: bool = False, atari_100k: bool = True, render_mode: str | None = None
) -> gym.Env:
    """One environment as the agent sees it, with `info["episode"]` as `Monitor` gives it.

    Args:
        env_id: a registered id, or `module:Id-v0`. MiniGrid is observed as a whole in RGB, MinAtar in fixed colours.
        evaluation: whether Atari games follow the protocol's evaluation instead of its training. Nothing to others.
        atari_100k: whether Atari games follow the Atari 100k protocol. If not, they are as registered, with sticky
            actions and their own frame skip, and only resized.
        render_mode: what Gymnasium's `render_mode` is; "rgb_array" renders in the environment's own size.

    Raises:
        UsageError: the id, its package, the render mode or the spaces are not usable.
    """
    if atari_100k and is_atari(env_id):
        return make_atari(env_id, evaluation=evaluation, render_mode=render_mode)
    env = make(find_spec(env_id), render_mode=render_mode)
    try:
        env = _as_images(env, env_id)
    except BaseException:
        env.close()
        raise
    return Monitor(env)


def make_vec_env(
    env_id: str,
    num_envs: int,
    *,
    evaluation: bool = False,
    atari_100k: bool = True,
    preprocessing: str = "iris",
    seed: int | None = None,
) -> VecEnv:
    """`num_envs` environments as `make_env` makes them, as a Stable-Baselines3 `VecEnv` of (N, 64, 64, 3) uint8.

    Args:
        preprocessing: "iris", what the published agents saw; or, for Atari games under the protocol, "ale", the fast
            path of `AtariVecEnv`.
        seed: row i starts from `seed + i` at the first reset. None: from entropy.

    Raises:
        UsageError: as `make_env`, or an argument is out of its range.
    """
    if num_envs < 1:
        raise UsageError(f"num_envs: {num_envs} is too few; give 1 or more")
    if preprocessing not in PREPROCESSINGS:
        raise UsageError(f"preprocessing: {preprocessing!r} is unknown; give one of {', '.join(PREPROCESSINGS)}")
    if preprocessing == "iris":
        make_one = partial(make_env, env_id, evaluation=evaluation, atari_100k=atari_100k)
        envs: VecEnv = DummyVecEnv([make_one] * num_envs)
    elif atari_100k and is_atari(env_id):
        envs = AtariVecEnv(env_id, num_envs, evaluation=evaluation)
    else:
        raise UsageError(
            f"preprocessing: 'ale' is for Atari games under the Atari 100k protocol only, not for {env_id!r}; "
            "give 'iris'"
        )
    if seed is not None:
        envs.seed(seed)
    return envs


class CheckedObservations(gym.Wrapper):
    """Sees to it that observations are of the space's shape and type, which vector environments would bend to fit.

    Raises:
        ValueError: an observation is not; in `reset` and `step`.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._checked(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._checked(observation), reward, terminated, truncated, info

    def _checked(self, observation: Any) -> Any:
        space = self.observation_space
        found = getattr(observation, "shape", None), getattr(observation, "dtype", None)
        if found != (space.shape, space.dtype):
            raise ValueError(
                f"an observation of shape {found[0]} and dtype {found[1]}, where its space says "
                f"{space.shape} and {space.dtype}"
            )
        return observation


class ResizedImages(gym.ObservationWrapper):
    """Any image observation as (64, 64, 3) uint8."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = image_space()

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return to_image(observation)


def _as_images(env: gym.Env, env_id: str) -> gym.Env:
    name = env_id.rpartition(":")[2]
    if name.startswith("MiniGrid-"):
        from minigrid.wrappers import ImgObsWrapper, RGBImgObsWrapper  # an optional package

        env = ImgObsWrapper(RGBImgObsWrapper(env))
    elif name.startswith("MinAtar/"):
        env = MinAtarImages(env)
    check_spaces(env.observation_space, env.action_space, env_id)
    env = CheckedObservations(env)
    return env if env.observation_space.shape == IMAGE_SHAPE else ResizedImages(env)


def frames_per_second(env_id: str | None) -> int:
    """The pace at which a game is shown to people, in steps of the agent a second; 15 where it is not known.

    An Atari game has 60 raw frames a second, and an action lasts four of them. A module that the id names is not
    imported for this: the id may come from a stranger's file.
    """
    if env_id is None or is_atari(env_id) or not is_known(env_id):
        return 60 // ACTION_REPEAT
    try:
        entry_point = find_spec(env_id).entry_point
        creator = entry_point if callable(entry_point) else load_env_creator(str(entry_point))
        return int(getattr(creator, "metadata", {}).get("render_fps") or 60 // ACTION_REPEAT)
    except (UsageError, ImportError, AttributeError, ValueError):
        return 60 // ACTION_REPEAT

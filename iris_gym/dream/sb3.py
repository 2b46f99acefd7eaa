"""The dream as a `VecEnv` of Stable-Baselines3."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor

from iris_gym.errors import UsageError


class DreamSB3VecEnv(VecEnv):
    """Any algorithm of Stable-Baselines3 trains in this.

    Rows that end go on at once with a new dream, as Stable-Baselines3 wants it; the last observation is in
    `info["terminal_observation"]`, and `info["TimeLimit.truncated"]` says that the horizon ended the episode and not
    the world model. `info["episode"]` is there without a `VecMonitor`.

    Args:
        dream: a dream in `SAME_STEP` mode, of either output, bare or in vector wrappers.

    Raises:
        UsageError: the dream has another autoreset mode, or is a single one.
    """

    def __init__(self, dream: VectorEnv) -> None:
        if not isinstance(dream, VectorEnv):
            raise UsageError(f"dream={dream!r} is no vector environment; take agent.make_dream_env or make_vec")
        mode = dream.metadata.get("autoreset_mode")  # which wrappers pass on
        if mode is not AutoresetMode.SAME_STEP:
            raise UsageError(
                f"autoreset_mode={getattr(mode, 'value', mode)!r} is not Stable-Baselines3's; "
                "make the dream with 'SameStep'"
            )
        self.dream = dream
        self._actions: Any = None
        super().__init__(dream.num_envs, dream.single_observation_space, dream.single_action_space)
        self.metadata = dict(dream.metadata)

    def reset(self) -> np.ndarray:
        """Begin new dreams in all rows, with the seed and the options that were set for the first."""
        observations, _ = self.dream.reset(seed=self._seeds[0], options=self._options[0])
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return _array(observations)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, terminated, truncated, info = self.dream.step(self._actions)
        terminated, truncated = _array(terminated), _array(truncated)
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(cut)} for cut in truncated & ~terminated]
        if "log_prob" in info:
            for row, value in zip(infos, _array(info["log_prob"]).tolist(), strict=True):
                row["log_prob"] = value
        if dones.any():
            self._add_ends(infos, info, dones.nonzero()[0])
        return _array(observations), _array(rewards), dones, infos

    def _add_ends(self, infos: list[dict[str, Any]], info: dict[str, Any], rows: np.ndarray) -> None:
        statistics = {name: _array(values).tolist() for name, values in info.get("episode", {}).items()}
        finals = info["final_obs"]
        for row in rows:
            infos[row]["terminal_observation"] = _array(finals[row])
            if statistics:
                infos[row]["episode"] = {name: values[row] for name, values in statistics.items()}

    def close(self) -> None:
        self.dream.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames = cast(tuple[np.ndarray, ...] | None, self.dream.render())
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the dream, which all rows share."""
        return [getattr(self._owner(attr_name), attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the dream, for all rows."""
        setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the dream, once, for all rows; each gets its answer."""
        answer = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        return [answer] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Counting episodes as a `Monitor` does, the dream stands for one; there are no other wrappers for a row."""
        name = "episode_statistics"
        counts = wrapper_class is Monitor and getattr(self._owner(name), name, False)
        return [counts] * len(list(self._get_indices(indices)))

    def _owner(self, name: str) -> VectorEnv:
        """The outermost wrapper that has an attribute, or the dream: vector wrappers do not pass attributes on."""
        layer = self.dream
        while isinstance(layer, VectorWrapper) and not hasattr(layer, name):
            layer = layer.env
        return layer


def _array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else values

"""The dream as an ordinary environment of Gymnasium: one row, NumPy."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from torch import Tensor

from iris_gym.dream.inputs import ObsType, StartFrames
from iris_gym.dream.vector_env import RENDER_FPS, DreamSnapshot, DreamVectorEnv
from iris_gym.imagination.dynamics import Dynamics


class DreamEnv(gym.Env):
    """One dream. Its arguments are those of `DreamVectorEnv`, of which this is a row.

    Statistics of episodes are left to Gymnasium's wrapper `RecordEpisodeStatistics`, or to Stable-Baselines3's
    `Monitor`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}

    def __init__(
        self,
        dynamics: Dynamics,
        *,
        start_frames: Any | StartFrames,
        horizon: int | None = 20,
        obs_type: ObsType = "pixels",
        temperature: float = 1.0,
        greedy: bool = False,
        overflow_context: int | None = None,
        log_probs: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self._row = DreamVectorEnv(
            dynamics,
            1,
            start_frames=start_frames,
            horizon=horizon,
            autoreset_mode=AutoresetMode.DISABLED,
            output="numpy",
            obs_type=obs_type,
            temperature=temperature,
            greedy=greedy,
            overflow_context=overflow_context,
            log_probs=log_probs,
            render_mode=render_mode,
        )
        self.metadata = dict(type(self).metadata)
        self.render_mode = render_mode
        self.observation_space = self._row.single_observation_space
        self.action_space = self._row.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new dream; `options["initial_frames"]` (1, 64, 64, 3) or (64, 64, 3) uint8 says where."""
        super().reset(seed=seed)
        options = dict(options or {})
        frames = options.get("initial_frames")
        if isinstance(frames, np.ndarray | Tensor) and frames.ndim == 3:
            options["initial_frames"] = frames[None]
        observations, _ = self._row.reset(seed=seed, options=options)
        return observations[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See `DreamVectorEnv.step`; with `log_probs`, `info["log_prob"]` is a float."""
        observations, rewards, terminated, truncated, info = self._row.step(np.asarray(action)[None])
        kept = {"log_prob": float(info["log_prob"][0])} if "log_prob" in info else {}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), kept

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The current frame (64, 64, 3) uint8; None without a `render_mode`."""
        frames = self._row.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        self._row.close()

    def get_state(self) -> DreamSnapshot:
        """See `DreamVectorEnv.get_state`."""
        return self._row.get_state()

    def set_state(self, state: DreamSnapshot, *, seed: int | None = None) -> None:
        """See `DreamVectorEnv.set_state`."""
        self._row.set_state(state, seed=seed)

"""`IRISPolicy`: the agent's networks as a Stable-Baselines3 policy."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from iris_gym.assembly import Models
from iris_gym.envs import batched, to_frames
from iris_gym.errors import UsageError, one_line
from iris_gym.imagination.policy import Policy
from iris_gym.types import RecurrentState
from iris_gym.untrusted.documents import shown


class IRISPolicy(BasePolicy):
    """Tokenizer, world model and actor-critic as a Stable-Baselines3 policy; its parameters are all of the agent's.

    Actions are sampled at `temperature` from `generator`, a random stream of its own, so that predicting never
    changes training. `on_load` is called after parameters were loaded from a vector.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Discrete,
        models: Models,
        *,
        temperature: float,
        generator: torch.Generator,
        on_load: Callable[[], None],
    ) -> None:
        super().__init__(observation_space, action_space)
        self.tokenizer = models.tokenizer
        self.world_model = models.world_model
        self.actor_critic = models.actor_critic
        self.acting = Policy(models.tokenizer, models.actor_critic)
        self.temperature = temperature
        self.generator = generator
        self.on_load = on_load

    def save(self, path: str) -> None:
        """Refused: it would be a pickle, which runs code where it is loaded."""
        raise UsageError(f"path={str(path)!r}: a policy is not saved by itself; use IRISAgent.save")

    @classmethod
    def load(cls, path: str, device: torch.device | str = "auto") -> "IRISPolicy":  # type: ignore[override]
        """Refused: Stable-Baselines3 would unpickle the file, and so run whatever code is in it."""
        raise UsageError(f"path={str(path)!r}: a policy is not loaded by itself; use IRISAgent.load(path).policy")

    def parameters_to_vector(self) -> np.ndarray:
        """All parameters one after another, as `load_from_vector` takes them. Some lie channels last.

        Buffers, such as the codebook ema, are no parameters, for Stable-Baselines3 either; `IRISAgent.get_parameters`
        gives all.
        """
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters()]).cpu().numpy()

    @torch.no_grad()
    def load_from_vector(self, vector: np.ndarray) -> None:
        """Set all parameters to what `parameters_to_vector` gave.

        In place, where Stable-Baselines3 would put other tensors: so it is known that what was kept of the tokenizer's
        outputs is stale, and a captured graph reads what was loaded.
        """
        parameters = list(self.parameters())
        sizes, values = [parameter.numel() for parameter in parameters], _array("vector", vector)
        if values.shape != (sum(sizes),) or values.dtype.kind not in "fiu":
            raise UsageError(f"vector is {values.dtype} {values.shape}; give real numbers ({sum(sizes)},)")
        loaded = torch.from_numpy(values.astype(np.float64)).float()  # torch takes few of NumPy's kinds, none read-only
        if not bool(loaded.isfinite().all()):
            raise UsageError("vector has numbers that are not finite in float32; give what parameters_to_vector gave")
        for parameter, part in zip(parameters, loaded.split(sizes), strict=True):
            parameter.copy_(part.view(parameter.shape))
        self.on_load()

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """The action at an observation or at a batch of them, and the LSTM's next state.

        Args:
            observation: uint8 image, height-width-channels or channels first, of any size; or N of them.
            state: (hidden, cell), each (1, N, lstm_dim) float32, as returned before; None at a first observation.
            episode_start: (N,) bool, rows whose episode begins here and whose state is cleared.
            deterministic: take the likeliest action instead of sampling.

        Returns:
            Actions () or (N,) int64, and the state after them.

        Raises:
            UsageError: the observation is no image, or state or episode_start are none of so many rows.
        """
        observations, single = batched(_array("observation", observation), self.observation_space.shape or ())
        frames = torch.from_numpy(to_frames(observations)).to(self.device)
        recurrent = self._recurrent_state(state, len(frames), episode_start)
        actions, recurrent = self._act(frames, recurrent, deterministic)
        chosen = actions.cpu().numpy()
        return chosen.squeeze(0) if single else chosen, tuple(part[None].cpu().numpy() for part in recurrent)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions (N,) at first frames (N, …) of episodes, for callers that pass tensors; `predict` remembers more."""
        frames = torch.from_numpy(to_frames(cast(Tensor, observation).cpu().numpy())).to(self.device)
        return self._act(frames, self.acting.initial_state(len(frames)), deterministic)[0]

    def _act(self, frames: Tensor, state: RecurrentState, deterministic: bool) -> tuple[Tensor, RecurrentState]:
        temperature = 0.0 if deterministic else self.temperature
        return self.acting.act(frames, state, temperature=temperature, generator=self.generator)

    def _recurrent_state(
        self, state: tuple[np.ndarray, ...] | None, rows: int, episode_start: np.ndarray | None
    ) -> RecurrentState:
        """The state as tensors (N, lstm_dim), Stable-Baselines3's axis of layers gone and begun episodes cleared."""
        initial = self.acting.initial_state(rows)
        if state is None:
            return initial
        expected = (1, *initial[0].shape)
        given = [_array("state", part) for part in state] if isinstance(state, tuple | list) else []
        if len(given) != 2 or any(part.shape != expected or part.dtype.kind not in "fiu" for part in given):
            kinds = [f"{part.dtype} {part.shape}" for part in given] or shown(state)
            raise UsageError(f"state is {kinds}; predict takes two arrays of real numbers {expected}, or None")
        keep = torch.from_numpy(~_begins(episode_start, rows)).to(self.device)[:, None]
        hidden, cell = (torch.as_tensor(part[0].astype(np.float32), device=self.device) for part in given)
        if not bool(hidden.isfinite().all() & cell.isfinite().all()):
            raise UsageError("state has numbers that are not finite; pass on what predict returned, or None")
        return hidden * keep, cell * keep


def _begins(episode_start: np.ndarray | None, rows: int) -> np.ndarray:
    """Which rows (N,) begin an episode."""
    starts = _array("episode_start", False if episode_start is None else episode_start)
    if starts.shape not in ((), (1,), (rows,)) or starts.dtype.kind not in "biuf":
        raise UsageError(f"episode_start is {starts.dtype} {starts.shape}; give bool ({rows},), or None")
    return np.broadcast_to(starts, rows).astype(bool)


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise UsageError(f"{name}={shown(value)} is no array: {one_line(error)}") from error

"""The running episodes of a dream's rows, and what is told of them. N is the number of rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Episodes:
    """The running episode of each row. Nothing is changed in place."""

    lengths: Tensor  # (N,) int64
    returns: Tensor  # (N,) float32
    begun: Tensor  # (N,) float64, seconds on the environment's clock

    @classmethod
    def none(cls, rows: int, device: torch.device) -> "Episodes":
        zeros = torch.zeros(rows, device=device)
        return cls(zeros.long(), zeros, zeros.double())

    def after(self, rewards: Tensor) -> "Episodes":
        """One step later."""
        return Episodes(self.lengths + 1, self.returns + rewards, self.begun)

    def restarted(self, mask: Tensor, now: float) -> "Episodes":
        """Begun anew in the rows of a mask (N,)."""
        return Episodes(
            self.lengths.masked_fill(mask, 0), self.returns.masked_fill(mask, 0), self.begun.masked_fill(mask, now)
        )

    def info(self, ended: Tensor, now: float) -> dict[str, Any]:
        """As Gymnasium's `RecordEpisodeStatistics` for vector environments has it; zeros where nothing ended."""
        statistics = {"r": self.returns, "l": self.lengths, "t": now - self.begun}
        return {
            "episode": {name: value.masked_fill(~ended, 0) for name, value in statistics.items()},
            "_episode": ended.clone(),
        }


def final_info(ended: Tensor, observations: Tensor, info: dict[str, Any]) -> dict[str, Any]:
    """What same-step resets add: last observations (N, …) and the step's `info`, both for the rows that `ended`."""
    copies: dict[str, Any] = {}
    for name, value in info.items():
        if name.startswith("_"):
            copies[name] = ended.clone()
        elif isinstance(value, dict):
            copies[name] = {key: part.clone() for key, part in value.items()}
        else:
            copies[name] = value.masked_fill(~ended, 0)
    return {
        "final_obs": observations,
        "_final_obs": ended.clone(),
        "final_info": copies,
        "_final_info": ended.clone(),
    }


def as_arrays(info: dict[str, Any]) -> dict[str, Any]:
    """Tensors as NumPy arrays; final observations as an array of objects, None where none is, as Gymnasium has."""
    arrays: dict[str, Any] = {
        name: as_arrays(value) if isinstance(value, dict) else value.cpu().numpy() for name, value in info.items()
    }
    if "final_obs" in arrays:
        objects = np.full(len(arrays["final_obs"]), None, dtype=object)
        for row in arrays["_final_obs"].nonzero()[0]:
            objects[row] = arrays["final_obs"][row]
        arrays["final_obs"] = objects
    return arrays

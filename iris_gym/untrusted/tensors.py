"""What safetensors files declare, before a number of theirs is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import parse_json, shown
from iris_gym.untrusted.files import Files

HEADER_LIMIT = 16_000_000
"""Bytes of the longest header that is read; a tensor takes about a hundred."""

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""How safetensors names the kinds of numbers that networks, optimizers and random states are made of."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is known of a tensor without its numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorSpec":
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {self.shape}"


def tensor_header(files: Files, name: str) -> dict[str, TensorSpec]:
    """The tensors that a safetensors file declares, of whose numbers nothing is read yet.

    Raises:
        UsageError: there is no such file, its header is damaged, or its tensors do not fill it byte for byte.
    """
    if name not in files:
        raise UsageError(f"{name} is missing")
    try:
        length = int.from_bytes(files.read(name, 0, 8), "little")
        available = files.size(name) - 8
        if not 2 <= length <= min(available, HEADER_LIMIT):
            raise ValueError(f"a header of {length:,} bytes")
        entries = parse_json(files.read(name, 8, 8 + length))
        entries.pop("__metadata__", None)
        return _checked_entries(entries, available - length)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{name} is no file of tensors, or a damaged one ({shown(str(error))})") from error


def _checked_entries(entries: dict[str, Any], available: int) -> dict[str, TensorSpec]:
    specs, place = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and 0 <= number < 2**48 for number in (*shape, begin, end)) or len(shape) > 8:
            raise ValueError(f"the shape or place of {name!r}")
        specs[name] = TensorSpec(DTYPES[entry["dtype"]], tuple(shape))
        if begin != place or end - begin != specs[name].size:
            raise ValueError(f"the place of {name!r}")
        place = end
    if place != available:
        raise ValueError(f"{available:,} bytes for tensors of {place:,}")
    return specs


def check_tensors(found: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec], source: str) -> None:
    """Raise `UsageError` for the first tensor that is missing, unexpected, or of another shape or dtype."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            missing = name in expected
            raise UsageError(f"{source} {'lacks' if missing else 'has an unexpected'} tensor {shown(name)}")
        if found[name].shape != expected[name].shape:
            raise UsageError(
                f"{source}: tensor {name!r} has shape {found[name].shape}, its config asks for {expected[name].shape}"
            )
        if found[name].dtype != expected[name].dtype:
            raise UsageError(f"{source}: tensor {name!r} is {found[name]}, its config asks for {expected[name]}")


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise `UsageError` for the first tensor with a number that is infinite or none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UsageError(f"{source}: tensor {name!r} has numbers that are not finite")

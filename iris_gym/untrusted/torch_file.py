"""The tensors of a file that `torch.save` wrote. Nothing but tensors is made of it, and no code of it runs."""

import os
import pickletools
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from iris_gym.errors import UsageError
from iris_gym.untrusted.archive import checked_members
from iris_gym.untrusted.documents import shown
from iris_gym.untrusted.files import open_regular

MAX_MEMBERS = 10_000
"""Of the zip that the file is; every tensor is one."""

PICKLE_LIMIT = 16_000_000
"""Bytes of the part that says what the tensors are called and where they lie; a tensor takes about two hundred."""

NEEDED = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
"""What a mapping of names to tensors is made with, beside the names of kinds of storage."""

STORAGES = {f"torch.{kind}Storage" for kind in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()}


def load_torch_file(path: Path, source: str) -> dict[str, Tensor]:
    """The tensors by name, which still lie in the file.

    Torch's own restricted reader runs no code, but would unpack compressed parts and make objects of any size. So the
    zip and its pickle are looked through first.

    Raises:
        UsageError: the file is damaged, asks for anything but tensors, or declares more of them than it holds.
    """
    if not os.path.isfile(path):
        raise UsageError(f"published={source} is no file")
    _check_file(path, source)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise UsageError(f"{source} holds more than tensors and was not read, for it could run code") from error
    except Exception as error:  # of any kind, where the bytes are any bytes
        reason = f"{type(error).__name__}: {str(error).partition('.')[0].strip()}"
        raise UsageError(f"{source} is cut off, damaged, or no file that torch wrote ({reason})") from error
    _check_tensors(tensors, path.stat().st_size, source)
    return dict(tensors)


def _check_file(path: Path, source: str) -> None:
    with open_regular(path, source) as file:
        try:
            members = checked_members(file, MAX_MEMBERS)
            pickles = [member for name, member in members.items() if name.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].size > PICKLE_LIMIT:
                raise UsageError("it has no list of tensors, several, or one without end")
        except UsageError as error:
            raise UsageError(f"{source} is cut off, damaged, or no file that torch wrote ({error})") from error
        file.seek(pickles[0].start)
        _check_pickle(file.read(pickles[0].size), source)


def _check_pickle(content: bytes, source: str) -> None:
    """Look for what a pickle asks for by name; `pickletools` reads it without doing what it says."""
    try:
        operations = [(operation.name, argument) for operation, argument, _ in pickletools.genops(content)]
    except Exception as error:  # of any kind, where the bytes are any bytes
        raise UsageError(f"{source} is cut off, damaged, or no file that torch wrote ({shown(str(error))})") from error
    for name, argument in operations:
        wanted = str(argument).replace(" ", ".") if name in ("GLOBAL", "INST") else name
        if wanted not in NEEDED | STORAGES and name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise UsageError(
                f"{source} holds more than tensors and was not read, for it could run code, it asks for {shown(wanted)}"
            )


def _check_tensors(tensors: Any, file_size: int, source: str) -> None:
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise UsageError(f"{source} is no checkpoint of the published agent: it holds no mapping of names to tensors")
    if sum(value.numel() * value.element_size() for value in tensors.values()) > file_size:
        raise UsageError(f"{source} is damaged: its tensors have more numbers than it holds")

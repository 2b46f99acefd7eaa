"""Files of a saved agent by name, from memory or a folder."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from iris_gym.errors import UsageError


def usable_path(name: str, path: str | Path) -> Path:
    """The path of the argument `name`. Raises `UsageError` where nothing can lie there, or nobody may look."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, TypeError) as error:  # ValueError: a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name}={str(path)[:100]!r} is no path that can be used: {reason}") from error
    return Path(path)


def open_regular(path: str | Path, source: str) -> BinaryIO:
    """A file to read from. Raises `UsageError`, at once, for anything else: a pipe would wait, a device never end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{source} cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"{source} cannot be read: it is no regular file")
    return os.fdopen(handle, "rb")


class Files(Mapping[str, bytes]):
    """The files of a saved agent by name, each read when it is asked for; these lie in memory."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._contents = contents

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)

    def __contains__(self, name: object) -> bool:
        return name in self._contents  # a mapping's own answer would read the file

    def __getitem__(self, name: str) -> bytes:
        return self.read(name, 0, self.size(name))

    def size(self, name: str) -> int:
        return len(self._contents[name])

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Some of its bytes. Raises `KeyError` where there is no such file."""
        return self._contents[name][start:stop]


class FolderFiles(Files):
    """Those of `names` that are in a folder."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._contents = {name: b"" for name in names if os.path.lexists(folder / name)}
        self._folder = folder

    def size(self, name: str) -> int:
        with self._open(name) as file:
            return os.fstat(file.fileno()).st_size

    def read(self, name: str, start: int, stop: int) -> bytes:
        with self._open(name) as file:
            file.seek(start)
            return file.read(stop - start)

    def _open(self, name: str) -> BinaryIO:
        if name not in self._contents:
            raise KeyError(name)
        return open_regular(self._folder / name, repr(str(self._folder / name)))

"""Files of a saved agent by name, from a zip."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import shown
from iris_gym.untrusted.files import Files, open_regular

DIRECTORY_BYTES, MEMBER_BYTES = 70_000, 500
"""How long a zip's list of members may be: its comment, which alone may have 65,535 bytes, and each member."""


class ZipFiles(Files):
    """The members of a zip that holds some of `names` and nothing else, as they are: stored, apart, each one once.

    Raises:
        UsageError: the file is another zip, or none.
    """

    def __init__(self, path: Path, names: tuple[str, ...], source: str) -> None:
        self._file, self._source = open_regular(path, source), source
        try:
            self._members = checked_members(self._file, len(names))
            for name in self._members:
                if name not in names:
                    raise UsageError(f"it holds {shown(name)}, and is no file that iris_gym wrote")
        except UsageError as error:
            self._file.close()
            raise UsageError(f"{source} is no saved agent: {error}") from error
        self._contents = dict.fromkeys(self._members, b"")

    def __enter__(self) -> "ZipFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, name: str) -> bytes:
        content = super().__getitem__(name)
        if zlib.crc32(content) != self._members[name].checksum:
            raise UsageError(f"{self._source} is no saved agent: {name} is damaged, its checksum is another")
        return content

    def size(self, name: str) -> int:
        return self._members[name].size

    def read(self, name: str, start: int, stop: int) -> bytes:
        member = self._members[name]
        self._file.seek(member.start + start)
        return self._file.read(min(stop, member.size) - start)


@dataclass(frozen=True, slots=True)
class Member:
    """Where a zip's member lies in it."""

    start: int
    size: int
    checksum: int  # CRC-32


def checked_members(file: BinaryIO, most: int) -> dict[str, Member]:
    """The members by name of a zip that has no more than `most`, read off its directory and held against its bytes.

    Raises:
        UsageError: it is damaged, or a member is compressed, encrypted, a link, there twice, or overlaps another.
    """
    try:
        with _DirectoryReader(file.fileno(), most) as reader, zipfile.ZipFile(reader) as archive:
            infos, end = archive.infolist(), archive.start_dir
        if len(infos) > most:
            raise UsageError(f"it has {len(infos)} members, at most {most} are read")
        members = {info.orig_filename: _member(file, info) for info in infos}
    except UsageError:
        raise
    except Exception as error:  # of any kind, where the bytes are any bytes
        raise UsageError(f"it is no zip, or a damaged one ({shown(str(error))})") from error
    if len(members) < len(infos):
        raise UsageError("it holds a member twice")
    _check_apart(members, end)
    return members


class _DirectoryReader(io.FileIO):
    """A file from which a zip's directory is read, but none so long that memory fills up."""

    def __init__(self, handle: int, most: int) -> None:
        super().__init__(handle, closefd=False)
        self._limit = DIRECTORY_BYTES + MEMBER_BYTES * most

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._limit + 1 if size is None or size < 0 else size
        content = super().read(min(wanted, self._limit + 1))
        if len(content) > self._limit:
            raise UsageError("its list of members is too long")
        return content


def _member(file: BinaryIO, info: zipfile.ZipInfo) -> Member:
    """The place of a member's bytes, which its own header tells, for that may be longer than the directory says."""
    name = shown(info.orig_filename)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise UsageError(f"its member {name} is compressed, which iris_gym's are not")
    if info.flag_bits & 1 or stat.S_ISLNK(info.external_attr >> 16):
        raise UsageError(f"its member {name} is encrypted or a link")
    file.seek(info.header_offset)
    header = file.read(30)
    signature, name_bytes, extra_bytes = struct.unpack("<4s22xHH", header)
    if signature != b"PK\x03\x04" or file.read(name_bytes) != info.orig_filename.encode():
        raise UsageError(f"its member {name} is not where its directory says")
    return Member(info.header_offset + 30 + name_bytes + extra_bytes, info.file_size, info.CRC)


def _check_apart(members: Mapping[str, Member], end: int) -> None:
    place = 0
    for name, member in sorted(members.items(), key=lambda item: item[1].start):
        if member.start < place or member.start + member.size > end:
            raise UsageError(f"its member {shown(name)} overlaps another, or reaches beyond the file")
        place = member.start + member.size

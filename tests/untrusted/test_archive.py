"""Zips as nobody but an attacker writes them. An honest one is read in `training/test_checkpoint.py`."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from iris_gym.errors import UsageError
from iris_gym.untrusted.archive import ZipFiles, checked_members

NAMES = ("a", "b", "c")
CONTENTS = {"a": b"first", "b": b"", "c": bytes(range(256)) * 100}


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED, **of_each: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            for attribute, value in of_each.items():
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return buffer.getvalue()


VALID = zipped(*CONTENTS.items())


def in_directory(offset: int, value: bytes) -> bytes:
    """The valid zip with another value in its directory's first entry."""
    start = VALID.index(b"PK\x01\x02") + offset
    return VALID[:start] + value + VALID[start + len(value) :]


def in_end(offset: int, value: bytes) -> bytes:
    start = len(VALID) - 22 + offset
    return VALID[:start] + value + VALID[start + len(value) :]


def write(folder: Path, content: bytes) -> Path:
    (folder / "it.zip").write_bytes(content)
    return folder / "it.zip"


def test_members_are_read_whole_and_in_part(tmp_path):
    with ZipFiles(write(tmp_path, VALID), NAMES, "it") as files:
        assert dict(files) == CONTENTS
        assert files.read("c", 3, 6) == bytes([3, 4, 5])
        assert files.read("c", 25_599, 99_999) == b"\xff"
        assert files.size("c") == 25_600
        assert "d" not in files
        with pytest.raises(KeyError):
            files["d"]


def test_a_comment_and_zip64_are_no_reason_to_refuse(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = b"by hand"
        with archive.open("a", "w", force_zip64=True) as member:
            member.write(b"first")
    with ZipFiles(write(tmp_path, buffer.getvalue()), NAMES, "it") as files:
        assert dict(files) == {"a": b"first"}


def overlapping() -> bytes:
    """Two entries of the directory for the same bytes: Fifield's bomb in small."""
    start = VALID.index(b"PK\x01\x02")
    entries = VALID[start:-22]
    first = entries[: 46 + 1]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(first), start, 0)
    return VALID[:start] + first + first.replace(b"a", b"a") + end


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no zip"),
        (VALID[:-1], "no zip"),
        (zipped(("a", b"1"), ("../b", b"2")), r"it holds '\.\./b'"),
        (zipped(("a", b"1"), ("/b", b"2")), "it holds '/b'"),
        (zipped(("a", b"1"), ("b/", b"")), "it holds 'b/'"),
        (zipped(("a", b"1")).replace(b"a", b"\0"), "it holds"),
        (zipped(*[(name, b"") for name in "abcd"]), "it has 4 members, at most 3 are read"),
        (zipped(("a", bytes(10**6)), compression=zipfile.ZIP_DEFLATED), "'a' is compressed"),
        (zipped(("a", bytes(10**6)), compression=zipfile.ZIP_LZMA), "'a' is compressed"),
        (zipped(("a", b"/etc/passwd"), external_attr=0o120777 << 16), "'a' is encrypted or a link"),
        (in_directory(8, b"\x01\x00"), "'a' is encrypted or a link"),
        (in_directory(10, b"\x63\x00"), "'a' is compressed"),
        (in_directory(20, struct.pack("<LL", 2**31, 2**31)), "overlaps another, or reaches beyond the file"),
        (in_directory(20, struct.pack("<LL", 5, 6)), "'a' is compressed"),
        (in_directory(42, struct.pack("<L", 10)), "'a' is not where its directory says"),
        (in_directory(42, struct.pack("<L", 2**32 - 2)), "no zip, or a damaged one"),
        (in_end(12, struct.pack("<L", 2**32 - 2)), "no zip, or a damaged one"),
        (in_end(16, struct.pack("<L", 2**32 - 2)), "no zip, or a damaged one"),
        (overlapping(), "twice"),
    ],
)
def test_any_other_zip_is_refused_with_the_reason(content, words, tmp_path):
    with pytest.raises(UsageError, match=rf"it is no saved agent: .*{words}"):
        ZipFiles(write(tmp_path, content), NAMES, "it")


def test_members_that_overlap_are_refused(tmp_path):
    """Under different names, so that neither is there twice."""
    content = zipped(("a", b"first"), ("b", zipped(("c", b"inner"))))
    start = struct.unpack("<L", content[-6:-2])[0]
    inner = content.index(b"PK\x03\x04", content.index(b"PK\x03\x04", 4) + 4)
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, zlib.crc32(b"inner"), 5, 5, 1, 0, 0, 0, 0, 0, inner
    )
    directory = content[start:-22] + entry + b"c"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3, 3, len(directory), start, 0)
    with pytest.raises(UsageError, match="overlaps another"):
        ZipFiles(write(tmp_path, content[:start] + directory + end), NAMES, "it")


def test_a_changed_byte_is_noticed(tmp_path):
    with (
        ZipFiles(write(tmp_path, VALID.replace(b"first", b"f1rst")), NAMES, "it") as files,
        pytest.raises(UsageError, match="a is damaged"),
    ):
        files["a"]


def test_a_list_of_a_million_members_is_not_read(tmp_path):
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    directory = entry * 100_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)
    with pytest.raises(UsageError, match="its list of members is too long"):
        ZipFiles(write(tmp_path, directory + end), NAMES, "it")


def test_what_a_zip_is_opened_with_is_closed(tmp_path):
    path = write(tmp_path, b"no zip")
    before = len(os.listdir("/proc/self/fd"))
    refused: Callable[[], object] = lambda: ZipFiles(path, NAMES, "it")  # noqa: E731
    for _ in range(3):
        with pytest.raises(UsageError):
            refused()
    assert len(os.listdir("/proc/self/fd")) == before


def test_members_of_any_name_are_told_where_they_lie(tmp_path):
    path = write(tmp_path, zipped(("x/data.pkl", b"12345")))
    with path.open("rb") as file:
        member = checked_members(file, 10)["x/data.pkl"]
        file.seek(member.start)
        assert file.read(member.size) == b"12345"

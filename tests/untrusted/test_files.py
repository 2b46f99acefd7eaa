import os

import pytest

from iris_gym.errors import UsageError
from iris_gym.untrusted.files import Files, FolderFiles, open_regular, usable_path


def test_files_in_memory_and_in_a_folder_are_read_alike(tmp_path):
    contents = {"a": b"12345", "b": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "other").touch()
    for files in (Files(contents), FolderFiles(tmp_path, ("a", "b", "c"))):
        assert dict(files) == contents
        assert files.size("a") == 5
        assert files.read("a", 1, 3) == b"23"
        assert files.read("a", 3, 99) == b"45"
        for missing in ("c", "other"):
            with pytest.raises(KeyError):
                files[missing]


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket of a device", "nothing", "dangling link"])
def test_what_is_no_regular_file_is_refused_at_once(kind, tmp_path):
    path = {"socket of a device": "/dev/zero"}.get(kind, tmp_path / "it")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "dangling link":
        os.symlink(tmp_path / "gone", path)
    with pytest.raises(UsageError, match="there cannot be read"):
        open_regular(path, "there")


def test_a_link_to_a_file_is_a_file(tmp_path):
    """As in the cache of the Hugging Face hub."""
    (tmp_path / "it").write_bytes(b"1")
    os.symlink(tmp_path / "it", tmp_path / "link")
    with open_regular(tmp_path / "link", "there") as file:
        assert file.read() == b"1"


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b", "x" * 300])
def test_what_no_file_can_be_called_is_refused(path):
    with pytest.raises(UsageError, match="run=.*is no path that can be used"):
        usable_path("run", path)


def test_a_path_where_nothing_lies_yet_is_usable(tmp_path):
    assert usable_path("run", str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"

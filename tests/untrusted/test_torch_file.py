"""Files of torch that hold no code, but would fill memory. Those with code are in `test_hostile_files.py`."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from iris_gym.errors import UsageError
from iris_gym.untrusted.torch_file import load_torch_file


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "it.pt")
    return folder / "it.pt"


def zipped(folder: Path, content: bytes, compression: int = zipfile.ZIP_STORED, **others: bytes) -> Path:
    with zipfile.ZipFile(folder / "it.pt", "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for name, other in others.items():
            archive.writestr(name.replace("_", "/"), other)
    return folder / "it.pt"


def refused(path: Path, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        load_torch_file(path, "it")
    assert "\n" not in str(error.value)


def test_tensors_are_read_by_name(tmp_path):
    tensors = {"a": torch.rand(2, 3), "b": torch.arange(3), "c": torch.tensor(1.5, dtype=torch.float16)}
    read = load_torch_file(saved(tmp_path, tensors), "it")
    torch.testing.assert_close(read, tensors, rtol=0, atol=0)


def test_a_module_s_state_is_read(tmp_path):
    module = torch.nn.Linear(2, 3)
    torch.testing.assert_close(load_torch_file(saved(tmp_path, module.state_dict()), "it"), dict(module.state_dict()))


def test_a_request_for_memory_is_refused_before_it_is_granted(tmp_path):
    """Torch's restricted reader would set the bytes aside: it allows `bytearray`."""

    class Memory:
        def __reduce__(self):
            return bytearray, (10**12,)

    refused(zipped(tmp_path, pickle.dumps({"a": Memory()}, 2)), "it asks for '__builtin__.bytearray'")


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_name_that_is_put_together_is_refused(protocol, tmp_path):
    refused(zipped(tmp_path, pickle.dumps(io.StringIO, protocol)), "asks for 'STACK_GLOBAL'")


def test_a_tensor_that_repeats_its_numbers_without_end_is_refused(tmp_path):
    """A file of 1 kB for a tensor of 4 TB; as its numbers are all the same ones, torch saves it so."""
    refused(saved(tmp_path, {"a": torch.zeros(1).expand(10**12)}), "its tensors have more numbers than it holds")


def test_compressed_parts_are_not_unpacked(tmp_path):
    refused(zipped(tmp_path, bytes(10**7), zipfile.ZIP_DEFLATED), "'archive/data.pkl' is compressed")


def test_a_list_of_tensors_without_end_is_not_read(tmp_path):
    refused(zipped(tmp_path, bytes(17_000_000)), "no list of tensors, several, or one without end")


def test_two_lists_of_tensors_are_refused(tmp_path):
    refused(
        zipped(tmp_path, b"\x80\x02}.", other_data=b"", **{"other_data.pkl": b"\x80\x02}."}),
        "no list of tensors, several",
    )


@pytest.mark.parametrize("content", [[], torch.zeros(2), {"a": 1}, {1: torch.zeros(2)}, None])
def test_anything_but_tensors_by_name_is_refused(content, tmp_path):
    refused(saved(tmp_path, content), "it holds no mapping of names to tensors")

import json

import pytest
import torch
from safetensors.torch import save

from iris_gym.errors import UsageError
from iris_gym.untrusted.files import Files
from iris_gym.untrusted.tensors import TensorSpec, check_finite, check_tensors, tensor_header

TENSORS = {"a": torch.zeros(2, 3), "b": torch.tensor(True), "c": torch.zeros(0, 4, dtype=torch.int64)}
SPECS = {name: TensorSpec.of(tensor) for name, tensor in TENSORS.items()}


def file(header: object, numbers: bytes = b"", length: int | None = None) -> Files:
    text = json.dumps(header).encode()
    return Files({"it": (len(text) if length is None else length).to_bytes(8, "little") + text + numbers})


def entry(dtype: object = "F32", shape: object = (2,), begin: object = 0, end: object = 8) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


def test_a_header_tells_the_tensors():
    assert tensor_header(Files({"it": save(TENSORS, {"by": "hand"})}), "it") == SPECS


def test_the_headers_of_all_dtypes_that_are_known():
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ):
        assert tensor_header(Files({"it": save({"a": torch.zeros(3, dtype=dtype)})}), "it") == {
            "a": TensorSpec(dtype, (3,))
        }


@pytest.mark.parametrize(
    "files",
    [
        Files({"it": b""}),
        Files({"it": b"\x02\0\0\0\0\0\0"}),
        file({}, length=2**63),
        file({}, length=3),
        file({}, length=0),
        file([]),
        file({"a": 1}),
        file({}, b"left over"),
        file(entry(), bytes(7)),
        file(entry(), bytes(9)),
        file(entry(begin=1), bytes(9)),
        file(entry(end=4), bytes(4)),
        file(entry(shape=[-2]), bytes(8)),
        file(entry(shape=[2.0]), bytes(8)),
        file(entry(shape=[True, 2]), bytes(8)),
        file(entry(shape=[2**62, 4], end=2**66), bytes(8)),
        file(entry(shape=[1] * 9 + [2]), bytes(8)),
        file(entry(shape="12"), bytes(8)),
        file(entry(dtype="F8_E4M3"), bytes(8)),
        file(entry(dtype=[]), bytes(8)),
        file(entry(begin=None), bytes(8)),
        file(entry() | {"b": entry()["a"]}, bytes(8)),  # the same bytes for two
        Files({"it": (100_000).to_bytes(8, "little") + b"[" * 100_000}),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(files):
    with pytest.raises(UsageError, match="it is no file of tensors, or a damaged one"):
        tensor_header(files, "it")


def test_a_missing_file_is_named():
    with pytest.raises(UsageError, match="it is missing"):
        tensor_header(Files({}), "it")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": None}, "there lacks tensor 'a'"),
        ({"d": SPECS["a"]}, "there has an unexpected tensor 'd'"),
        ({"a": TensorSpec(torch.float32, (3, 2))}, r"'a' has shape \(3, 2\), its config asks for \(2, 3\)"),
        ({"b": TensorSpec(torch.uint8, ())}, r"'b' is uint8 \(\), its config asks for bool \(\)"),
    ],
)
def test_a_tensor_that_was_not_asked_for_is_named(change, words):
    found = {name: spec for name, spec in (SPECS | change).items() if spec is not None}
    check_tensors(SPECS, SPECS, "there")
    with pytest.raises(UsageError, match=words):
        check_tensors(found, SPECS, "there")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(number):
    check_finite(TENSORS, "there")
    with pytest.raises(UsageError, match="there: tensor 'x' has numbers that are not finite"):
        check_finite(TENSORS | {"x": torch.tensor([0.0, number])}, "there")

import time

import pytest
import yaml

from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import parse_json, parse_yaml, read_document, shown

BILLION_LAUGHS = "a: &a [1, 1]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value] * 100  # the same list a hundred times: 100^depth values to whoever writes them all out
    return value


@pytest.mark.parametrize(
    "value",
    [nested(20), 10**5000, "x" * 10**6, {"a": nested(20)}, b"x" * 10**6, object()],
    ids="lists number text mapping bytes object".split(),
)
def test_any_value_is_shown_in_a_short_line_and_at_once(value):
    begun = time.process_time()
    assert len(shown(value)) < 300
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("value", ["Pong\n", 1, 1.5, None, True, [1, 2], {"a": 1}])
def test_an_ordinary_value_is_shown_as_python_writes_it(value):
    assert shown(value) == repr(value)


def test_a_file_of_just_the_limit_is_read(tmp_path):
    (tmp_path / "file").write_bytes(bytes(10))
    assert read_document(tmp_path / "file", "it", limit=10) == bytes(10)
    with pytest.raises(UsageError, match="it cannot be used: it has more than 9 bytes"):
        read_document(tmp_path / "file", "it", limit=9)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"", b"9" * 5000, b"{,}"],
    ids="lists mappings no-text nothing number comma".split(),
)
def test_what_is_no_json_is_a_value_error(content):
    with pytest.raises(ValueError):
        parse_json(content)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 50_000,
        BILLION_LAUGHS,
        "a: &x 1\nb: *x",
        "a: &x {b: *x}",
        "!!python/object/apply:os.getcwd []",
        "!!int ''",
        "!!bool maybe",
        "!!timestamp never",
        "? [a]\n: b",
        "\x00",
    ],
)
def test_yaml_beyond_plain_values_is_a_value_error(text):
    begun = time.process_time()
    with pytest.raises(ValueError) as error:
        parse_yaml(text.encode())
    assert "\n" not in str(error.value)
    assert time.process_time() - begun < 5


def test_the_ordinary_safe_loader_takes_the_aliases():
    assert len(yaml.safe_load(BILLION_LAUGHS)) == 9


def test_plain_yaml_is_read():
    assert parse_yaml(b"a: 1\nb: [1.5, null, yes, '*x']\n") == {"a": 1, "b": [1.5, None, True, "*x"]}

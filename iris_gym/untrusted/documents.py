"""Small files of plain values, JSON and YAML, and how a value out of them is shown."""

import json
import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from iris_gym.errors import UsageError, one_line
from iris_gym.untrusted.files import open_regular

DOCUMENT_LIMIT = 4_000_000
"""Bytes of the largest JSON file that is read; those that iris_gym writes have some thousands."""


def shown(value: Any) -> str:
    """`repr` for an error message: short whatever the value, which may be huge or hold itself a million times."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 200
    short.maxlevel = 2
    try:
        text = " ".join(short.repr(value).split())
        return text if len(text) <= 250 else text[:249] + "…"
    except Exception:  # a whole number of more digits than Python writes, or a foreign object's own `repr`
        return f"<{type(value).__name__}>"


def read_document(path: str | Path, source: str, limit: int = DOCUMENT_LIMIT) -> bytes:
    """A whole file of no more than `limit` bytes."""
    with open_regular(path, source) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UsageError(f"{source} cannot be used: it has more than {limit:,} bytes")
    return content


def parse_json(content: bytes) -> Any:
    """Raises `ValueError` for whatever is not JSON in UTF-8, lists in lists in lists without end among it."""
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without references to what was written before.

    A few lines of those stand for billions of values, which fill memory as soon as somebody looks at them.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to a value by an alias; write the value out")
        return super().compose_node(parent, index)


_PlainLoader.add_implicit_resolver(  # YAML 1.1 takes 1e-4 for a string, for it lacks the point; everybody writes it
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(content: bytes) -> Any:
    """Raises `ValueError` for whatever is not YAML, in UTF-8, of plain values."""
    try:
        return yaml.load(content.decode(), _PlainLoader)  # a safe loader: it knows no objects
    except (yaml.YAMLError, RecursionError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # The kinds after the first two are what its constructors fail with on tags that do not fit their values.
        raise ValueError(one_line(error) or "it is nested too deeply") from error

"""The error types of the package: what a user gave cannot be used, or a run cannot go on."""

from typing import Any


class UsageError(ValueError):
    """A value that a user gave cannot be used.

    The message is one line that names the field, the value and what would do. The command line prints it and
    exits with status 2; in Python it is an ordinary `ValueError`.
    """


class RunError(RuntimeError):
    """A run cannot go on: its environment is broken, its losses are not numbers. What it had saved is untouched.

    The message is one line that names what happened and where. The command line prints it and exits with status 1.
    """


def one_line(value: Any) -> str:
    """What an error or a space says of itself, without line breaks."""
    return " ".join(str(value).split())

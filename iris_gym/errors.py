"""The one error type for values that come from outside."""


class UsageError(ValueError):
    """A value that a user gave cannot be used.

    The message is one line that names the field, the value and what would do. The command line prints it and
    exits with status 2; in Python it is an ordinary `ValueError`.
    """

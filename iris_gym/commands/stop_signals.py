"""SIGINT and SIGTERM as a request to stop."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopRequested(BaseException):
    """Raised by a signal in the middle of work that can be thrown away."""


class StopSignals:
    """Notes SIGINT and SIGTERM, so that a run can stop between two updates; the second one acts at once.

    Where `interruptible` says that nothing is lost, the first one raises `StopRequested` there and then.
    """

    def __init__(self, interruptible: Callable[[], bool] = lambda: False) -> None:
        self.received = 0
        self.interruptible = interruptible
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if self.received else handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        for stopping in self._earlier:
            signal.signal(stopping, signal.SIG_DFL)
        if self.interruptible():
            raise StopRequested

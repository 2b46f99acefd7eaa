"""How fast a training goes."""

import time


class Rates:
    """Seconds that one unit of each kind of work takes, from the times between the trainer's events."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.units: dict[str, int] = {}
        self._last = time.monotonic()

    def count(self, kind: str, units: int = 1) -> None:
        now = time.monotonic()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self._last
        self.units[kind] = self.units.get(kind, 0) + units
        self._last = now

    def per_second(self, kind: str) -> float | None:
        return self.units[kind] / self.seconds[kind] if self.seconds.get(kind) else None

    def time_for(self, work: dict[str, int]) -> tuple[float, bool]:
        """Seconds that `work` (units by kind) takes, and whether every kind of it has been seen yet."""
        known = [(units, self.per_second(kind)) for kind, units in work.items() if units]
        return sum(units / rate for units, rate in known if rate), all(rate for _, rate in known)

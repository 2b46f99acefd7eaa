import pytest

from iris_gym.benchmark import measuring


@pytest.fixture(autouse=True)
def small_yardstick(monkeypatch):
    monkeypatch.setattr(measuring, "PEAK_SIZE", {"cpu": 16})


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: self.now)

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from iris_gym import progress
from iris_gym.progress import Rates, TrainingDisplay
from iris_gym.training.trainer import CollectionEnded, CollectionStarted, EpochEnded, StepTaken, UpdateDone


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)

    def tick(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


class FakeTrainer:
    """1,000 steps of the environment and 300 updates are left, in ten epochs."""

    position = SimpleNamespace(epoch=3, done=7)

    def remaining(self, target: int) -> dict[str, int]:
        return {"collect": 1000, "autoencoder": 300, "actor_critic": 0}

    def epochs_left(self, target: int) -> int:
        return 10


def new_display(terminal: bool = False) -> tuple[TrainingDisplay, io.StringIO]:
    episodes = [{"r": 100.0}, *({"r": 0.25 + index % 2} for index in range(20))]
    agent = SimpleNamespace(trainer=FakeTrainer(), target=2000, num_timesteps=1000, ep_info_buffer=episodes)
    output = io.StringIO()
    return TrainingDisplay(agent, Console(file=output, force_terminal=terminal, width=60)), output


def step(rows: int = 1) -> StepTaken:
    return StepTaken(SimpleNamespace(dones=np.zeros(rows, bool)))


def test_rates_are_units_by_seconds(clock):
    rates = Rates()
    clock.tick(2)
    rates.count("collect", 10)
    clock.tick(1)
    rates.count("autoencoder")
    clock.tick(2)
    rates.count("collect", 10)
    assert rates.per_second("collect") == 5
    assert rates.per_second("autoencoder") == 1
    assert rates.per_second("evaluation") is None


def test_the_time_for_work_says_whether_all_of_it_is_known(clock):
    rates = Rates()
    clock.tick(2)
    rates.count("collect", 10)
    assert rates.time_for({"collect": 50}) == (10, True)
    assert rates.time_for({"collect": 50, "autoencoder": 3}) == (10, False)
    assert rates.time_for({"collect": 50, "autoencoder": 0}) == (10, True)
    assert rates.time_for({}) == (0, True)


def test_work_that_took_no_time_divides_by_nothing(clock):
    rates = Rates()
    rates.count("collect")
    assert rates.per_second("collect") is None
    assert rates.time_for({"collect": 1}) == (0, False)


def test_the_time_left_counts_every_kind_of_work(clock):
    display, _ = new_display()
    clock.tick(0.5)
    display.show(step(rows=2))
    assert display.time_left() == "> 4:10 left"
    clock.tick(2)
    display.show(UpdateDone("autoencoder"))
    clock.tick(5)
    display.show(EpochEnded(3, {}))
    assert display.time_left() == "15:00 left"  # 1000 · 0.25 + 300 · 2 + 10 · 5 seconds


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_times_are_written_as_a_clock_shows_them(seconds, words):
    assert progress._clock(seconds) == words


def test_an_epoch_is_one_line_with_its_metrics_and_rates(clock):
    display, output = new_display()
    with display:
        for event in (CollectionStarted(), step(), CollectionEnded(), UpdateDone("autoencoder")):
            clock.tick(0.5)
            display.show(event)
        display.show(
            EpochEnded(3, {"autoencoder/reconstruction_loss": 0.25, "codebook/active_codes": 17.0, "x/y": 1.0})
        )
    [line] = output.getvalue().splitlines()
    assert line.startswith(
        "epoch   3  steps 1,000  return 0.75  reconstruction 0.25000  codes 17  [collect 1.0/s, autoencoder 1.0/s]"
    )
    assert line.endswith("left")


def test_work_without_a_rate_yet_is_left_out_of_the_line(clock):
    display, output = new_display()
    display.agent.ep_info_buffer = None
    display.show(step())
    display.show(EpochEnded(1, {}))
    assert output.getvalue().startswith("epoch   1  steps 1,000  []")


def test_a_bar_is_drawn_on_a_terminal_and_taken_away(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")  # not the one that the tests run in, which may be able to draw none
    display, output = new_display(terminal=True)
    with display:
        clock.tick(1)
        display.show(step())
        display.bar.refresh()
    assert re.search(r"epoch 3 collect 7 \(1\.0/s\)", output.getvalue())


def test_no_bar_is_drawn_elsewhere(clock):
    display, output = new_display()
    with display:
        display.show(step())
    assert output.getvalue() == ""

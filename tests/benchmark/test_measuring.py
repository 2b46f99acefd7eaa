import sys

import pytest
import torch

from iris_gym.benchmark import measuring
from iris_gym.benchmark.measuring import PeakMemory, count_flops, count_operations, matrix_product_peaks, timed

CPU = torch.device("cpu")
MEGABYTE = 2**20


def test_the_yardstick_is_the_fastest_product_in_each_precision(monkeypatch):
    seconds = iter([3.0, 2.0, 4.0, 1.5, 1.0, 2.5])
    monkeypatch.setattr(measuring, "PEAK_TRIES", 3)
    monkeypatch.setattr(measuring, "PEAK_SECONDS", 6.0)
    monkeypatch.setattr(measuring, "timed", lambda run, device: next(seconds))
    assert matrix_product_peaks(CPU) == {"float32": 2 * 16**3 / 2.0, "bf16": 2 * 16**3 / 1.0}


def test_a_machine_that_emulates_a_precision_is_not_tried_for_long(monkeypatch):
    monkeypatch.setattr(measuring, "timed", lambda run, device: 60.0)
    assert matrix_product_peaks(CPU) == {"float32": 2 * 16**3 / 60.0, "bf16": 2 * 16**3 / 60.0}


def test_timed_is_the_difference_of_two_looks_at_the_clock(clock):
    assert timed(lambda: clock.tick(0.5), CPU) == 0.5


def test_views_are_no_operations():
    a = torch.ones(2, 3)
    assert count_operations(lambda: a.view(3, 2).t()[0]) == 0
    assert count_operations(lambda: (a.view(3, 2) + 1).exp()) == 2


def test_a_product_is_a_multiplication_and_an_addition_an_element():
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    assert count_flops(lambda: a @ b) == 2 * 2 * 3 * 5


@pytest.mark.skipif(sys.platform != "linux", reason="the resident set is known on Linux alone")
def test_each_phase_has_a_peak_of_its_own():
    """The second takes 40 MB and returns them; the 400 MB of the first are not counted again."""
    own = []
    for size in (400, 40):
        memory = PeakMemory(CPU)
        memory.begin()
        torch.ones(size * MEGABYTE // 4)
        peak = memory.end()
        assert peak is not None and memory.idle is not None
        own.append((peak - memory.idle) / MEGABYTE)
    assert own == pytest.approx([400, 40], abs=8)


def test_where_the_peak_cannot_be_reset_it_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "PROCESS", tmp_path / "no such folder")
    memory = PeakMemory(CPU)
    memory.begin()
    assert (memory.idle, memory.end()) == (None, None)

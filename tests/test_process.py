import os
import platform
import subprocess
import sys

import pytest

from iris_gym import process

IN_A_PROCESS_OF_ITS_OWN = "from iris_gym.process import tune_allocator; import numpy; print(tune_allocator());"


def no_load():
    raise OSError("not known")


@pytest.mark.parametrize(
    ("load", "cores", "spins"),
    [
        (lambda: (0.4, 2.0, 2.0), 2, "10000"),
        (lambda: (0.6, 0.0, 0.0), 2, "1000"),
        (lambda: (3.0, 0.0, 0.0), 16, "10000"),
        (no_load, 2, "10000"),
        (None, 2, "10000"),
    ],
)
def test_threads_spin_for_less_long_beside_other_work(monkeypatch, load, cores, spins):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setattr(process.os, "cpu_count", lambda: cores)
    if load is None:
        monkeypatch.delattr(process.os, "getloadavg")
    else:
        monkeypatch.setattr(process.os, "getloadavg", load)
    process.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == spins


def test_how_long_threads_spin_is_for_the_user_to_say(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "30000")
    process.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "30000"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator that has no such settings")
def test_large_arrays_are_no_mappings_of_their_own_afterwards():
    """The heap grows where it would not have: mallopt took the settings, and memory still works."""
    program = IN_A_PROCESS_OF_ITS_OWN + (
        "heap = lambda: sum(int(b, 16) - int(a, 16) for a, b in (line.split()[0].split('-')"
        " for line in open('/proc/self/maps') if '[heap]' in line));"
        "before = heap(); a = numpy.ones(2**26, numpy.uint8); print(heap() - before >= 2**26, int(a.sum()) == 2**26)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True"] * 3, done.stderr


def test_no_glibc_is_no_error(monkeypatch):
    monkeypatch.setattr(process.platform, "libc_ver", lambda: ("", ""))
    assert process.tune_allocator() is False


def test_the_process_is_prepared_before_torch_is_imported():
    program = "import sys, iris_gym.process, iris_gym.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr

"""Settings of the process that the command line runs in. A library leaves them to its host."""

import ctypes
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1
TOP_PAD = 64 * 2**20

SPIN_SETTING = "GOMP_SPINCOUNT"
SPINS, SPINS_BESIDE_OTHERS = 10_000, 1_000

allocator = "default"
"""What `tune_allocator` has made of the process's allocator: default or tuned. For whoever reports figures."""


def prepare_process() -> None:
    """Let torch run well on a CPU. To be called before torch is imported: OpenMP reads its settings once."""
    limit_spinning()
    tune_allocator()


def limit_spinning() -> None:
    """Say how long OpenMP's threads spin where they wait for one another, unless the user has.

    The thousands of small operations of a transformer follow each other within microseconds, and a thread that has
    gone to sleep between two of them is woken slowly: on an idle machine of two cores, `SPINS` took two thirds of the
    time of `SPINS_BESIDE_OTHERS`. But where another program wants a core as well, each operation may wait for a thread
    that is not scheduled while the other one spins: there it took about twice as long, and 100,000, a third of what GNU
    OpenMP does by itself, eight times.
    """
    os.environ.setdefault(SPIN_SETTING, str(SPINS_BESIDE_OTHERS if others_at_work() else SPINS))


def others_at_work() -> bool:
    """Whether a quarter of the machine was busy in the last minute, as far as the system tells."""
    try:
        return os.getloadavg()[0] > (os.cpu_count() or 1) / 4
    except (AttributeError, OSError):  # Windows has no such thing
        return False


def tune_allocator() -> bool:
    """Let glibc keep freed memory instead of returning it to the system; False where there is no glibc.

    By default every large tensor is mapped anew and its pages fault one by one, which can double the time of a
    training step.
    """
    global allocator
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_TOP_PAD: TOP_PAD}
    taken = all(mallopt(option, value) for option, value in settings.items())
    allocator = "tuned" if taken else allocator
    return taken


def memory_in_use() -> int | None:
    """Bytes of memory that the process holds; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")

"""Settings of the process that the command line runs in. A library leaves them to its host."""

import ctypes
import os
import platform
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1
TOP_PAD = 64 * 2**20

allocator = "default"
"""What `tune_allocator` has made of the process's allocator: default or tuned. For whoever reports figures."""


def prepare_process() -> None:
    """Let torch run well on a CPU. To be called before torch is imported: OpenMP reads its settings once."""
    limit_spinning()
    tune_allocator()


def limit_spinning() -> None:
    """Let OpenMP's threads spin only briefly where they wait for one another, unless the user has said otherwise.

    GNU OpenMP spins for milliseconds by default. Where another program wants a core as well, each of the thousands of
    small operations of a transformer then waits for a thread that is not scheduled: two threads were seen to take 40
    times as long as one. Never to spin costs a third of the speed on an idle machine.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


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

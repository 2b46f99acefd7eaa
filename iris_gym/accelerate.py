"""Make the same computation run faster, from outside."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = 2**31 - 1
TOP_PAD = 64 * 2**20


def tune_allocator() -> bool:
    """Let glibc keep freed memory instead of returning it to the system; False where there is no glibc.

    By default every large tensor is mapped anew and its pages fault one by one, which can double the time of a
    training step on a CPU. For the process of the command line only: a library does not change its host's allocator.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(option, value) for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD))
    )

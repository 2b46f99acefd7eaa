"""Seconds, bytes, operations and the machine's peak: how they are measured here."""

import contextlib
import ctypes
import gc
import math
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from iris_gym.accelerate import products

Precision = Literal["float32", "tf32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}

PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product is the yardstick."""
PEAK_TRIES = 10
PEAK_SECONDS = 2.0
"""After so many there is no further try."""

PROCESS = Path("/proc/self")
HIGH_WATER_MARK = "5"
"""What Linux wants to read in `clear_refs` to begin anew with the largest resident set (proc_pid_clear_refs(5))."""


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that `run` takes, with all that it leaves the device to do."""
    wait_for(device)
    begun = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - begun


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_product_peaks(device: torch.device) -> dict[Precision, float]:
    """`matrix_product_peak` of each precision that the device has."""
    return {
        precision: matrix_product_peak(device, precision)
        for precision in DTYPES
        if precision != "tf32" or device.type == "cuda"
    }


def matrix_product_peak(device: torch.device, precision: Precision) -> float:
    """Floating-point operations a second of the fastest of some products of two square matrices."""
    size = PEAK_SIZE.get(device.type, PEAK_SIZE["cpu"])
    with products(tf32=precision == "tf32"):
        return _product_peak(torch.rand(2, size, size, device=device).to(DTYPES[precision]))


def _product_peak(factors: torch.Tensor) -> float:
    """Of two matrices (2, n, n). A machine that has to emulate their type is not tried for long."""
    left, right = factors
    fastest, tried = math.inf, 0.0
    for _ in range(PEAK_TRIES):
        if tried > PEAK_SECONDS:
            break
        took = timed(lambda: left @ right, factors.device)
        fastest, tried = min(fastest, took), tried + took
    return 2 * factors.shape[-1] ** 3 / fastest


class PeakMemory:
    """The most memory that is in use between `begin` and `end`, in bytes; None where that cannot be known.

    On a GPU it is what tensors occupy. On Linux it is the process's resident set, mapped files included: memory that
    was freed before is given back at `begin`, or what an earlier phase took would be counted again. `idle` is what is
    in use at `begin`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.idle: int | None = None

    def begin(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.idle = torch.cuda.memory_allocated(self.device)
        else:
            _return_freed_memory()
            self.idle = _resident_set("VmRSS") if _forget_high_water_mark() else None

    def end(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return None if self.idle is None else _resident_set("VmHWM")


def beyond(idle: int | None, peak: int | None) -> int | None:
    """Bytes of `peak` beyond the `idle` ones; None where one of them is not known."""
    return None if idle is None or peak is None else peak - idle


def _return_freed_memory() -> None:
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _forget_high_water_mark() -> bool:
    """False where there is no Linux, or where it does not let us."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text(HIGH_WATER_MARK)
        return True
    return False


def _resident_set(name: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most."""
    found = re.search(rf"^{name}:\s+(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


class OperationCounter(TorchDispatchMode):
    """Counts the operations that torch dispatches, but for views, which compute nothing; `_unsafe_view` is one, too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func is torch.ops.aten._unsafe_view.default)
        return func(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> int:
    with OperationCounter() as counter:
        run()
    return counter.count


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and convolutions in `run`; torch's counter knows no others."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() + " CPU"

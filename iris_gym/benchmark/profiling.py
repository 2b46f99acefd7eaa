"""Where a phase's time goes, operation by operation, as torch's profiler tells."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from iris_gym.benchmark.measuring import wait_for


def profiled(run: Callable[[], object], device: torch.device, most: int) -> dict[str, Any]:
    """What `summary` makes of one run."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        run()
        wait_for(device)
    return summary(profiler.key_averages(), most, on_gpu=on_gpu)


def summary(averages: Iterable[Any], most: int, *, on_gpu: bool) -> dict[str, Any]:
    """The `most` expensive `operations`, and the `calls` and `busy_s` of all.

    An operation has a `name`, `calls` and `self_s`, the seconds without those of the operations that it calls. On a GPU
    they are its kernels: where their sum lies far below the time of the phase, the GPU waits for the host to launch
    them. On a CPU they are torch's operations.
    """
    kind = "CUDA" if on_gpu else "CPU"
    operations = [
        {
            "name": average.key,
            "calls": average.count,
            "self_s": (average.self_device_time_total if on_gpu else average.self_cpu_time_total) / 1e6,
        }
        for average in averages
        if average.device_type.name == kind and not average.is_user_annotation  # which spans others' kernels
    ]
    operations.sort(key=lambda operation: operation["self_s"], reverse=True)
    return {
        "calls": sum(operation["calls"] for operation in operations),
        "busy_s": sum(operation["self_s"] for operation in operations),
        "operations": operations[:most],
    }

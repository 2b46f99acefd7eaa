"""What is made of the profiler's averages; where the GPU's would be needed, of some of their kind."""

from types import SimpleNamespace

import torch
from torch._C._autograd import DeviceType

from iris_gym.benchmark.profiling import profiled, summary


def average(key: str, device: DeviceType, *, count=1, on_cpu: float = 0.0, on_gpu: float = 0.0, annotation=False):
    times = {"self_cpu_time_total": on_cpu, "self_device_time_total": on_gpu}  # µs
    return SimpleNamespace(key=key, count=count, device_type=device, is_user_annotation=annotation, **times)


AVERAGES = [
    average("aten::mm", DeviceType.CPU, count=2, on_cpu=3e6, on_gpu=9e6),
    average("aten::add", DeviceType.CPU, count=5, on_cpu=4e6),
    average("aten::copy_", DeviceType.CPU, on_cpu=1e6),
    average("sgemm", DeviceType.CUDA, count=2, on_gpu=7e6),
    average("vectorized_add", DeviceType.CUDA, count=5, on_gpu=2e6),
    average("Optimizer.step#Adam.step", DeviceType.CUDA, on_gpu=2.5e6, annotation=True),
]


def test_on_a_cpu_the_operations_that_take_longest_come_first():
    found = summary(AVERAGES, 2, on_gpu=False)
    assert found["operations"] == [
        {"name": "aten::add", "calls": 5, "self_s": 4.0},
        {"name": "aten::mm", "calls": 2, "self_s": 3.0},
    ]
    assert (found["calls"], found["busy_s"]) == (8, 8.0)  # of all three


def test_on_a_gpu_kernels_count_and_not_what_launched_them():
    found = summary(AVERAGES, 10, on_gpu=True)
    assert [operation["name"] for operation in found["operations"]] == ["sgemm", "vectorized_add"]
    assert (found["calls"], found["busy_s"]) == (7, 9.0)


def test_a_run_is_profiled():
    a = torch.ones(300, 300)
    found = profiled(lambda: [a @ a for _ in range(7)], torch.device("cpu"), 1)
    (longest,) = found["operations"]
    assert (longest["name"], longest["calls"]) == ("aten::mm", 7)
    assert 0 < longest["self_s"] <= found["busy_s"]

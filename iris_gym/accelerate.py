"""When and in which precision callables are computed, not what they compute.

Everything wraps modules and callables from outside, once, where they are put together.
"""

import contextlib
import functools
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

Precision = Literal["auto", "bf16", "float32"]


def gains_from_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 faster than float32; one without instructions only emulates it, slowly.

    By AVX-512 alone, without AMX, Intel's processors do so at half the speed of float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return False
    return torch.cpu._is_amx_tile_supported() or not _made_by_intel()


@functools.cache
def _made_by_intel() -> bool:
    """Whether the processor is, by what Linux, or else Python, knows of it."""
    try:
        description = Path("/proc/cpuinfo").read_text()
    except OSError:
        description = platform.processor()
    return "GenuineIntel" in description


def compute_dtype(precision: Precision, device: torch.device, *, worthwhile: bool = True) -> torch.dtype:
    """The dtype in which networks are computed. `auto` is bfloat16 where that gains and is `worthwhile`."""
    if precision == "bf16" or (precision == "auto" and worthwhile and gains_from_bf16(device)):
        return torch.bfloat16
    return torch.float32


@dataclass(frozen=True, slots=True)
class Numerics:
    """How an update is computed: forward passes in `dtype` beside float32 weights; TF32 products where `tf32`."""

    dtype: torch.dtype = torch.float32
    tf32: bool = False

    @contextlib.contextmanager
    def update(self) -> Iterator[None]:
        """Around a whole update. A GPU's setting of before comes back afterwards."""
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = before or self.tf32
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def forward(self, device: torch.device) -> torch.autocast:
        """Around the forward pass; the backward pass follows its dtypes.

        Weights are cast each time: in older torch what was cast without gradient served a pass that needed one.
        """
        return torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False)


PLAIN = Numerics()


class FrozenCopy:
    """A copy of a module to compute with while the module itself rests, in another precision or layout.

    `make` gives the copy, whose parameters and buffers are converted values of the module's. The copy's tensors stay
    where they are, so a captured graph may read them. What it has in common with the module is left as it is.
    """

    def __init__(self, module: nn.Module, make: Callable[[nn.Module], nn.Module]) -> None:
        self.module = module
        self.copy = make(module).eval()
        for mine, theirs in self._pairs():
            if mine is not theirs:
                mine.requires_grad_(False)
        self._version = version(module)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what was written to the module since."""
        current = version(self.module)
        if current == self._version:
            return
        for mine, theirs in self._pairs():
            if mine is not theirs:
                mine.copy_(theirs)
        self._version = current

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(_tensors(self.copy), _tensors(self.module), strict=True)


def version(module: nn.Module) -> int:
    """A number that grows with everything that writes to the module's parameters and buffers: torch counts it."""
    return sum(tensor._version for tensor in _tensors(module))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


# ------------------------------------------------------------------ CUDA graphs


class Graphs(Protocol):
    """Records the work that a callable gives to a device, to have it done again by one launch."""

    def warm_up(self, run: Callable[[], object]) -> None: ...

    def capture(self, run: Callable[[], Any], generators: Sequence[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        """What `run` returned, tensors that each call of the second result fills anew."""
        ...


class CUDAGraphs:
    """`Graphs` by torch. Registered generators go on drawing new numbers at every replay."""

    WARM_UPS = 2

    def warm_up(self, run: Callable[[], object]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)

    def capture(self, run: Callable[[], Any], generators: Sequence[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            result = run()
        return result, graph.replay


class Captured:
    """A callable on tensors, recorded once for each set of shapes and from then on replayed as a whole.

    The callable may ask nothing of the device and has to do the same work at each call. Its results are overwritten
    by the next call. Where it cannot be recorded, it is called as it is, after one warning.
    """

    def __init__(
        self, function: Callable[..., Any], *, generators: Sequence[torch.Generator] = (), graphs: Graphs | None = None
    ) -> None:
        self.function = function
        self.generators = generators
        self.graphs = graphs or CUDAGraphs()
        self._recorded: dict[tuple, tuple[tuple[Tensor, ...], Any, Callable[[], None]]] = {}
        self._works = True

    def __call__(self, *inputs: Tensor) -> Any:
        if not self._works:
            return self.function(*inputs)
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
        if key not in self._recorded:
            try:
                self._recorded[key] = self._record(inputs)
            except RuntimeError as error:
                self._works = False
                warnings.warn(f"no CUDA graph could be captured, so it goes on without: {error}", stacklevel=2)
                return self.function(*inputs)
        places, result, replay = self._recorded[key]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        replay()
        return result

    def _record(self, inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Any, Callable[[], None]]:
        places = tuple(tensor.clone() for tensor in inputs)
        states = [generator.get_state() for generator in self.generators]
        try:
            self.graphs.warm_up(lambda: self.function(*places))
            result, replay = self.graphs.capture(lambda: self.function(*places), self.generators)
        finally:  # neither warming up nor recording counts
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)
        return places, result, replay

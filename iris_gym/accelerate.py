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
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

Precision = Literal["auto", "bf16", "float32"]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def gains_from_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 faster than float32; one without instructions only emulates it, slowly.

    By AVX-512 alone, without AMX, Intel's processors do so at half the speed of float32.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks of the one that is current
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


@contextlib.contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """A GPU's float32 products and convolutions in TF32, or exact as a CPU's; torch's settings come back afterwards.

    Left to itself torch convolves in TF32, and multiplies without. Nothing is done where no GPU is used, nor where the
    program has chosen by torch's newer settings of single operations: then the older ones are not to be read.
    """
    before = _float32_settings()
    try:
        if before:
            _choose_float32("high" if tf32 else "highest", convolutions=tf32)
        with _attention_without_cudnn():
            yield
    finally:
        if before:
            _choose_float32(*before)


@contextlib.contextmanager
def _meanwhile(get: Callable[[], bool], choose: Callable[[bool], object], value: bool) -> Iterator[None]:
    """One of torch's settings as `value`, where a GPU is used; afterwards it is as it was."""
    if not torch.cuda.is_initialized():
        yield
        return
    before = get()
    choose(value)
    try:
        yield
    finally:
        choose(before)


def _attention_without_cudnn() -> contextlib.AbstractContextManager[None]:
    """A GPU's attention by other kernels than cuDNN's, which torch prefers on a Hopper in bf16.

    Those are built for each length of a growing dream, and torch 2.11 has them round dropout to sixteenths.
    """
    return _meanwhile(torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp, False)


@contextlib.contextmanager
def _repeatable_convolutions() -> Iterator[None]:
    """A GPU's convolutions by those algorithms of cuDNN alone whose sums come in the same order every time.

    A transposed one, as the decoder has, has faster ones that may round otherwise at each call.
    """
    cudnn = torch.backends.cudnn
    with _meanwhile(lambda: cudnn.deterministic, lambda value: setattr(cudnn, "deterministic", value), True):
        yield


def inference(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """For what is done outside of an update: without gradient, and on a GPU in float32 as exact as a CPU's, the same
    at each call.

    A caller's `torch.inference_mode` is left meanwhile, as what is written in it could not be written to again outside.
    """
    return torch.inference_mode(False)(torch.no_grad()(products(tf32=False)(_repeatable_convolutions()(function))))


def _float32_settings() -> tuple[str, bool] | None:
    with contextlib.suppress(RuntimeError):
        if torch.cuda.is_initialized():
            return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    return None


def _choose_float32(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions


@dataclass(frozen=True, slots=True)
class Numerics:
    """How an update is computed: forward passes in `dtype` beside float32 weights; TF32 products where `tf32`."""

    dtype: torch.dtype = torch.float32
    tf32: bool = False

    def update(self) -> contextlib.AbstractContextManager[None]:
        """Around a whole update."""
        return products(tf32=self.tf32)

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
    """`Graphs` of a GPU by torch. Generators go on drawing new numbers at every replay."""

    WARM_UPS = 2

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm_up(self, run: Callable[[], object]) -> None:
        with torch.cuda.device(self.device):  # torch makes and asks for streams of the one that is current
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(self.WARM_UPS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)

    def capture(self, run: Callable[[], Any], generators: Sequence[torch.Generator]) -> tuple[Any, Callable[[], None]]:
        with torch.cuda.device(self.device):
            current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            if torch.__version__ < "2.14":  # as versions; from then on a capture finds them by itself
                for generator in generators:
                    graph.register_generator_state(generator)
            try:
                # What other threads do with the device, loggers or communication between GPUs, is no part of it.
                with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
                    result = run()
            except RuntimeError:
                # Torch stays on the stream of a capture that it cannot end, and up to 2.12 its generators in capturing.
                torch.cuda.set_stream(current)
                for generator in (*generators, torch.cuda.default_generators[torch.cuda.current_device()]):
                    fresh = torch.Generator(self.device)
                    fresh.set_state(generator.get_state())
                    generator.graphsafe_set_state(fresh)
                raise
        return result, graph.replay


class Captured:
    """A callable on tensors, recorded once for each set of shapes and from then on replayed as a whole.

    The callable may ask nothing of the device and has to do the same work at each call. Its results are overwritten
    by the next call. Where it cannot be recorded, it is called as it is, after one warning; and so it is under a mode
    that looks at what torch dispatches, since a replay dispatches nothing.
    """

    def __init__(
        self, function: Callable[..., Any], *, graphs: Graphs, generators: Sequence[torch.Generator] = ()
    ) -> None:
        self.function = function
        self.generators = generators
        self.graphs = graphs
        self._recorded: dict[tuple, tuple[tuple[Tensor, ...], Any, Callable[[], None]]] = {}
        self._works = True

    def __call__(self, *inputs: Tensor) -> Any:
        if not self._works or _get_current_dispatch_mode() is not None:
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

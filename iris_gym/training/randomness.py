"""The random streams of a run, apart from one another and from everybody else's."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from iris_gym.errors import UsageError


class RandomStreams:
    """One generator for each use, so that one use never shifts another: predicting does not change training.

    `sampling` draws segments, `collecting` and `predicting` actions in real environments, `imagining` all of the
    dream. Dropout and dead codes draw from torch's global generator, which has no other place to be given. Environments
    may draw from Python's and NumPy's.
    """

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self.sampling = np.random.default_rng()
        self.collecting, self.imagining, self.predicting = (torch.Generator(device) for _ in range(3))
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Begin all but the global ones anew. None: from entropy."""
        first, *others = np.random.SeedSequence(seed).spawn(4)
        self.sampling.bit_generator.state = np.random.default_rng(first).bit_generator.state
        for generator, sequence in zip(self._generators().values(), others, strict=True):
            generator.manual_seed(int(sequence.generate_state(1)[0]))

    def state_dict(self) -> dict[str, Tensor]:
        """The states of the torch generators, and of torch's, NumPy's and Python's global ones."""
        states = {name: generator.get_state() for name, generator in self._generators().items()}
        states["global"] = torch.get_rng_state()
        states["global_numpy"], states["global_python"] = _numpy_state(), _python_state()
        device = self.imagining.device
        if device.type == "cuda":
            states["global_cuda"] = torch.cuda.get_rng_state(device)
        return states

    def load_state_dict(self, states: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; on a device of another kind its generators begin anew.

        Raises:
            UsageError: one of them is no state of a generator.
        """
        for name, generator in self._generators().items():
            if states[name].shape == generator.get_state().shape:
                _restore(name, generator.set_state, states[name])
        _restore("global", torch.set_rng_state, states["global"])
        if "global_numpy" in states:
            _restore("global_numpy", _set_numpy_state, states["global_numpy"])
            _restore("global_python", _set_python_state, states["global_python"])
        device = self.imagining.device
        if device.type == "cuda" and "global_cuda" in states:
            _restore("global_cuda", lambda state: torch.cuda.set_rng_state(state, device), states["global_cuda"])

    def _generators(self) -> dict[str, torch.Generator]:
        return {"collecting": self.collecting, "imagining": self.imagining, "predicting": self.predicting}


def _restore(name: str, set_state: Callable[[Tensor], object], state: Tensor) -> None:
    try:
        set_state(state)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the random state {name!r} is none of a generator: {error}") from error


def _numpy_state() -> Tensor:
    """626 words and a number, (627,) float64: words have 32 bits, which float64 holds exactly."""
    _, words, *rest = np.random.get_state(legacy=True)
    return torch.tensor([*words.tolist(), *rest], dtype=torch.float64)  # pyright: ignore[reportAttributeAccessIssue]


def _set_numpy_state(state: Tensor) -> None:
    *words, place, has_gauss, gauss = state.tolist()
    if not all(0 <= word < 2**32 for word in words) or not 0 <= place <= len(words):
        raise ValueError("a word or a place out of range")  # NumPy would read beyond its words
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), int(place), int(has_gauss), gauss))


def _python_state() -> Tensor:
    """625 words and a number, (626,) float64; NaN stands for no number."""
    _, words, gauss = random.getstate()
    return torch.tensor([*words, float("nan") if gauss is None else gauss], dtype=torch.float64)


def _set_python_state(state: Tensor) -> None:
    *words, gauss = state.tolist()
    random.setstate((3, tuple(map(int, words)), None if np.isnan(gauss) else gauss))


def drawn_seed() -> int:
    """A seed from entropy, for a run that is to be repeatable though nobody chose one."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def checked_seed(seed: int | None) -> int | None:
    """Raise `UsageError` for a seed that numpy's global generator, which is seeded too, does not take."""
    if seed is None:
        return None
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise UsageError(f"seed={seed!r} must be a whole number from 0 to 2**32 - 1, or None")
    return int(seed)

"""Who can be evaluated: the agent's own policy, any function from observations to actions, and chance."""

import copy
import importlib
import inspect
import random
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch

from iris_gym.envs import to_frames
from iris_gym.errors import UsageError, one_line
from iris_gym.functional import sample_categorical
from iris_gym.imagination.policy import Policy


class PolicyPlayer:
    """The agent's policy, with a random stream of its own for every episode.

    So an episode's actions depend on its seed, and not on which other episodes are played beside it or before it. Can
    be sent to another process, where it plays on the same device.
    """

    refills = True

    def __init__(self, policy: Policy, temperature: float) -> None:
        self.policy = policy
        self.temperature = temperature

    def prepare(self, rows: int, num_actions: int) -> None:
        self.state = self.policy.initial_state(rows)
        self.device = self.state[0].device
        self.num_actions = num_actions
        self.streams = [np.random.default_rng(0) for _ in range(rows)]

    def begin(self, seeds: Mapping[int, int]) -> None:
        for row, seed in seeds.items():
            # The seed's own stream is the one that the environment draws from. `RandomPlayer` has the keys from 1 on.
            self.streams[row] = np.random.default_rng((0, seed))
            for part in self.state:
                part[row] = 0

    def act(self, observations: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(to_frames(observations)).to(self.device)
        logits, self.state = self.policy.logits(frames, self.state)
        draws = np.stack([stream.standard_exponential(self.num_actions) for stream in self.streams])
        exponentials = torch.from_numpy(draws).to(logits)
        return sample_categorical(logits, temperature=self.temperature, exponentials=exponentials).cpu().numpy()

    def __getstate__(self) -> dict[str, Any]:
        device = self.policy.initial_state(1)[0].device
        networks = (self.policy.tokenizer, self.policy.actor_critic)
        return {
            "networks": tuple(copy.deepcopy(network).cpu() for network in networks),
            "device": str(device),
            "temperature": self.temperature,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        tokenizer, actor_critic = (network.to(state["device"]) for network in state["networks"])
        self.__init__(Policy(tokenizer, actor_critic), state["temperature"])


class RandomPlayer:
    """Uniformly random actions, from a random stream of its own for every episode. Without any network.

    Players of another `key` draw others in the same episodes.
    """

    refills = True

    def __init__(self, key: int = 1) -> None:
        self.key = key

    def prepare(self, rows: int, num_actions: int) -> None:
        self.num_actions = num_actions
        self.streams = [np.random.default_rng(0) for _ in range(rows)]

    def begin(self, seeds: Mapping[int, int]) -> None:
        for row, seed in seeds.items():
            self.streams[row] = np.random.default_rng((self.key, seed))  # not that of the environment's draws

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.array([stream.integers(self.num_actions) for stream in self.streams])


class FunctionPlayer:
    """A function of another library, by its name `module:function`, that gives actions.

    It is called as Stable-Baselines3's `predict` is, so `module:model.predict` works:

        function(observations, state=…, episode_start=…, deterministic=…) → (actions, state)

    with observations (N, 64, 64, 3) uint8, None or what it returned as `state` the last time, (N,) bool, True where an
    episode begins, and actions (N,) of integers. It gets by name those of the three that it takes, and may return
    actions alone.

    N episodes are played in a round, all from their beginning to their end, and before each round the random
    generators of Python, NumPy and torch are seeded: a function that draws from them gives the same actions again.
    """

    refills = False

    def __init__(self, name: str, *, deterministic: bool = False) -> None:
        self.name = name
        self.deterministic = deterministic

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs, which imports the function by itself: not what `prepare` has found here."""
        return {"name": self.name, "deterministic": self.deterministic}

    def prepare(self, rows: int, num_actions: int) -> None:
        self.function = load_function(self.name)
        self.takes = _keywords_of(self.function)
        self.rows = rows

    def begin(self, seeds: Mapping[int, int]) -> None:
        if seeds:
            seed_everything(min(seeds.values()))
        self.state = None
        self.starts = np.ones(self.rows, bool)

    def act(self, observations: np.ndarray) -> np.ndarray:
        offered = {"state": self.state, "episode_start": self.starts, "deterministic": self.deterministic}
        keywords = {name: value for name, value in offered.items() if self.takes(name)}
        try:
            answer = self.function(observations, **keywords)
        except Exception as error:
            raise UsageError(f"agent: {self.name!r} raised {type(error).__name__}: {one_line(error)}") from error
        actions, self.state = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        self.starts = np.zeros(self.rows, bool)
        return np.asarray(actions)


def load_function(name: str) -> Callable[..., Any]:
    """What `module:function`, or `module:object.method`, names. Modules of the working folder are found, too.

    Raises:
        UsageError: the name has another form, its module cannot be imported, or it names nothing that can be called.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise UsageError(f"agent: {name!r} names no function; write module:function, such as my_agent:model.predict")
    if "" not in sys.path and "." not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it
    try:
        function = reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:
        raise UsageError(f"agent: {name!r} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error
    if not callable(function):
        raise UsageError(f"agent: {name!r} is a {type(function).__name__}; it must be a function that gives actions")
    return function


def seed_everything(seed: int) -> None:
    """The global random generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _keywords_of(function: Callable[..., Any]) -> Callable[[str], bool]:
    """Whether a function takes an argument by this name. Of one without a signature it is taken for granted."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return lambda name: True
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return lambda name: anything or name in parameters

"""Valid values made invalid: bytes flipped, cut and moved; entries of JSON exchanged, added and left out.

And the game that the agents come from.
"""

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

NUMBERS = [0, 1, -1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**9, 10**30, 10**400, -(10**20)]
TEXTS = [
    "",
    ".",
    "..",
    "../../x",
    "/etc/passwd",
    "a\0b",
    "a\nb",
    "\ud800",
    "x" * 300,
    "nan",
    "__class__",
    "antigravity",
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(TEXTS),
    st.text(max_size=10),
)
"""What a field might hold instead."""

values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@st.composite
def spoiled_bytes(draw: Any, valid: bytes, parts: tuple[slice, ...] = ()) -> bytes:
    """A few edits of valid bytes, three in four of them within one of `parts`, which matter most."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start, stop, _step = draw(st.sampled_from((slice(None), *parts, *parts, *parts))).indices(len(content))
        place = draw(st.integers(start, max(stop - 1, start)))
        kind = draw(st.sampled_from(["set", "number", "insert", "remove", "cut", "repeat"]))
        if kind == "set":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "number":
            size = draw(st.sampled_from([2, 4, 8]))
            number = draw(st.sampled_from(NUMBERS)) % 256**size
            content[place : place + size] = number.to_bytes(size, "little")
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=20))
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 50))]
        elif kind == "cut":
            del content[place:]
        else:
            content[place:place] = content[place : place + draw(st.integers(1, 200))]
    return bytes(content)


@st.composite
def spoiled_json(draw: Any, valid: Any) -> Any:
    """A copy of a tree of dicts and lists in which a few places hold something else, nothing, or something more."""
    tree = {"": copy.deepcopy(valid)}
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        container, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["exchange", "exchange", "remove", "add", "rename"]))
        if kind == "exchange" or container is tree:
            container[key] = draw(near(container[key]) | values)
        elif kind == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.sampled_from(TEXTS) | st.text(max_size=8))] = (
                draw(values) if kind == "add" else container.pop(key)
            )
        else:
            container.append(draw(values))
    return tree[""]


def near(value: Any) -> st.SearchStrategy:
    """Of the same type, which gets further than something else entirely."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.sampled_from([value + 1, value - 1, 2 * value, -value, 0, 1]) | st.sampled_from(NUMBERS)
    if isinstance(value, float):
        return st.floats() | st.sampled_from([-value, 0.0, 1e-320, 1e300])
    if isinstance(value, str):
        return st.sampled_from(TEXTS) | st.just(value + " ")
    return values


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


class Still(gymnasium.Env):
    """One image, three actions, episodes without end."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((64, 64, 3), np.uint8), 0.0, False, False, {}


class Game(gymnasium.Env):
    """A few frames, three actions, episodes of seven steps."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        self.steps += 1
        return np.full((64, 64, 3), 30 * self.steps, np.uint8), 1.0, self.steps == 7, False, {}

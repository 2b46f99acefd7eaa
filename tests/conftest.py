"""For the whole suite: one thread, since the networks are tiny and threads that wait for one another cost more."""

import pytest
import torch

torch.set_num_threads(1)

LONGEST = ("test_learning", "test_examples", "test_kills")
"""Modules with tests of minutes, which come first, so that no process is left with one while others are done."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_addoption(parser):
    parser.addoption("--fuzz-examples", type=int, help="inputs a target of tests/fuzz; the default takes seconds")

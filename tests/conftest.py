"""For the whole suite: one thread, since the networks are tiny and threads that wait for one another cost more."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_addoption(parser):
    parser.addoption("--fuzz-examples", type=int, help="inputs a target of tests/fuzz; the default takes seconds")

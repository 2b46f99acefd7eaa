"""For the whole suite: one thread, since the networks are tiny and threads that wait for one another cost more."""

import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--fuzz-examples", type=int, help="inputs a target of tests/fuzz; the default takes seconds")

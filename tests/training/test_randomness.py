import random

import numpy as np
import pytest
import torch

from iris_gym.training.randomness import RandomStreams

CPU = torch.device("cpu")
NAMES = ("collecting", "imagining", "predicting")


def draws(streams: RandomStreams) -> dict[str, float]:
    torch_draws = {name: float(torch.rand(1, generator=getattr(streams, name))) for name in NAMES}
    return torch_draws | {"sampling": float(streams.sampling.random())}


def test_a_seed_gives_the_same_streams_and_another_seed_others():
    assert draws(RandomStreams(1, CPU)) == draws(RandomStreams(1, CPU))
    assert not set(draws(RandomStreams(1, CPU)).values()) & set(draws(RandomStreams(2, CPU)).values())


def test_the_streams_of_a_seed_differ_from_one_another():
    assert len(set(draws(RandomStreams(1, CPU)).values())) == 4


def test_no_seed_is_different_every_time():
    assert draws(RandomStreams(None, CPU)) != draws(RandomStreams(None, CPU))


@pytest.mark.parametrize("busy", [*NAMES, "sampling"])
def test_using_one_stream_shifts_no_other(busy):
    undisturbed, disturbed = draws(RandomStreams(1, CPU)), RandomStreams(1, CPU)
    for _ in range(10):
        if busy == "sampling":
            disturbed.sampling.random()
        else:
            torch.rand(3, generator=getattr(disturbed, busy))
    after = draws(disturbed)
    assert {name for name in after if after[name] != undisturbed[name]} == {busy}


def test_making_streams_leaves_the_global_ones_alone():
    before = torch.get_rng_state(), np.random.get_state()[1]
    RandomStreams(1, CPU)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


def test_a_state_brings_back_every_torch_stream_and_the_global_one():
    streams = RandomStreams(1, CPU)
    draws(streams)
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    expected = draws(streams), torch.rand(2), np.random.normal(size=3).tolist(), random.gauss(0, 1), random.random()
    other = RandomStreams(9, CPU)
    other.load_state_dict(state)
    other.sampling = RandomStreams(1, CPU).sampling
    other.sampling.random()
    assert (draws(other), torch.rand(2).tolist()) == (expected[0], expected[1].tolist())
    assert (np.random.normal(size=3).tolist(), random.gauss(0, 1), random.random()) == expected[2:]


def test_the_state_of_another_kind_of_device_begins_anew():
    streams = RandomStreams(1, CPU)
    state = {name: value[:16].clone() for name, value in streams.state_dict().items()}
    state |= {name: value for name, value in streams.state_dict().items() if name.startswith("global")}
    streams.load_state_dict(state)
    assert draws(streams) == draws(RandomStreams(1, CPU))

import platform

import pytest
import torch

from iris_gym import IRISConfig
from iris_gym.benchmark import scaling as module
from iris_gym.benchmark.scaling import Growth, exponent, scaling


def test_an_exponent_is_that_of_the_upper_end():
    sizes = [1, 4, 16, 64, 256]
    assert exponent(sizes, [7.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert exponent(sizes, [5.0, 5.0, 16.0, 64.0, 256.0]) == pytest.approx(1.0)
    assert exponent(sizes[:2], [3.0, 3.0]) == pytest.approx(0.0)


def test_what_is_not_known_or_nothing_has_no_exponent():
    assert exponent([1, 2, 4], [1.0, None, 3.0]) is None
    assert exponent([1, 2, 4], [0.0, 1.0, 2.0]) is None
    assert exponent([1], [1.0]) is None


def test_a_growth_becomes_an_entry():
    entry = Growth([1.0, 2.0, 4.0], [10, 40, 160]).entry([1, 2, 4])
    assert entry == {
        "median_s": [1.0, 2.0, 4.0],
        "exponent": pytest.approx(1.0),
        "memory_bytes": [10, 40, 160],
        "memory_exponent": pytest.approx(2.0),
    }


@pytest.mark.slow
def test_every_scale_is_measured_size_by_size(monkeypatch):
    sizes = {"batch": (2,), "horizon": (3,), "context": (5,), "replay": (40, 80)}
    monkeypatch.setattr(module, "SCALES", sizes)
    monkeypatch.setattr(module, "SAMPLES", 2)
    seen = []
    result = scaling(IRISConfig.tiny(), preset="tiny", device="cpu", repeats=1, on_size=seen.append)
    assert seen == [f"{scale} {size}" for scale in sizes for size in sizes[scale]]
    assert {name: scale["sizes"] for name, scale in result["scales"].items()} == {
        name: list(values) for name, values in sizes.items()
    }
    measured = {name: set(scale["measured"]) for name, scale in result["scales"].items()}
    assert measured == {
        "batch": {"autoencoder", "world_model", "imagination", "actor_critic", "act"},
        "horizon": {"imagination", "actor_critic"},
        "context": {"world_model", "imagination"},
        "replay": {"append", "sample", "look_up", "reopen"},
    }
    replay = result["scales"]["replay"]["measured"]
    known = {name for name, growth in replay.items() if None not in growth["memory_bytes"]}
    assert known == ({"look_up", "reopen"} if platform.system() == "Linux" else set())
    for name, scale in result["scales"].items():
        for growth in scale["measured"].values():
            assert len(growth["median_s"]) == len(growth["memory_bytes"]) == len(sizes[name])
            assert all(seconds > 0 for seconds in growth["median_s"])


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells how much memory was in use at most")
def test_the_memory_of_a_cache_is_that_of_all_its_frames():
    config, rows = IRISConfig.tiny(), 4_000
    a_frame = 64 * 64 * 3 + 8 * config.tokens_per_frame
    taken = module._memory(lambda: module._fill_cache(rows, config, torch.device("cpu")), torch.device("cpu"))
    assert rows * a_frame < taken < 6 * rows * a_frame


def test_only_what_grows_is_changed():
    config = IRISConfig.tiny()
    batch, horizon, context = (module._scaled(config, scale, 64) for scale in ("batch", "horizon", "context"))
    assert batch == config.replace(autoencoder_batch_size=64, transformer_batch_size=64, actor_critic_batch_size=64)
    assert horizon == config.replace(imagination_horizon=64, transformer_timesteps=80)
    assert context == config.replace(transformer_timesteps=64)

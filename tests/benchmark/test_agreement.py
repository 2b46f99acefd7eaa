import copy

import numpy as np
import pytest
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.assembly import Models, build_replay
from iris_gym.benchmark import agreement
from iris_gym.benchmark.agreement import bf16_agreement
from iris_gym.benchmark.noise import fill_with_noise


@pytest.fixture
def segment():
    with build_replay(IRISConfig.tiny(), None) as replay:
        fill_with_noise(replay, 40, 3)
        yield replay.sample_segments(8, 4, generator=np.random.default_rng(0), align="start")


def models(seed: int = 0) -> Models:
    torch.manual_seed(seed)
    return build_models(IRISConfig.tiny(), 3, "cpu")


def test_shares_and_steps_of_an_agent(segment):
    found = bf16_agreement(IRISConfig.tiny(), models(), segment)
    assert list(found) == ["encode", "next_token", "reward", "end", "dream_tokens", "dream_steps"]
    assert all(0.8 < found[name] <= 1 for name in ("encode", "next_token", "reward", "end"))
    assert 0 <= found["dream_steps"] <= 4


def test_the_same_networks_agree_everywhere_and_others_do_not(segment, monkeypatch):
    freeze = agreement.freeze

    def another(config, given, *, seed):
        other = copy.deepcopy(given) if seed is None else models(seed)
        frozen = freeze(config, given)
        frozen.tokenizer.copy, frozen.world_model.copy = other.tokenizer, other.world_model
        return frozen

    monkeypatch.setattr(agreement, "freeze", lambda config, given: another(config, given, seed=None))
    found = bf16_agreement(IRISConfig.tiny(), models(), segment)
    assert found == {**dict.fromkeys(["encode", "next_token", "reward", "end", "dream_tokens"], 1.0), "dream_steps": 4}
    monkeypatch.setattr(agreement, "freeze", lambda config, given: another(config, given, seed=1))
    found = bf16_agreement(IRISConfig.tiny(), models(), segment)
    assert found["encode"] < 0.3 and found["next_token"] < 0.3 and found["dream_steps"] == 0

import pytest
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.assembly import build_learners
from iris_gym.benchmark.check import _all_learning, check_projection
from iris_gym.errors import UsageError
from iris_gym.training.randomness import RandomStreams


def config(**changes) -> IRISConfig:
    return IRISConfig.tiny(**({"atari_100k": False, "max_env_steps": 600} | changes))


def late() -> IRISConfig:
    """Whose components begin late and with more updates than they go on with."""
    first = dict(autoencoder_first_updates=9, transformer_first_updates=9, actor_critic_first_updates=9)
    settling = dict(slow_autoencoder_after=2, stop_autoencoder_after=3, settled_autoencoder_updates=1)
    return config(start_actor_critic_after=50, **first, **settling)


def test_each_epoch_that_is_checked_has_as_many_updates_as_later_ones():
    checked = _all_learning(late(), 2)
    learners = build_learners(checked, build_models(checked, 3, "cpu"), RandomStreams(0, torch.device("cpu")))
    for plan in (learner.plan for learner in learners):
        assert [plan.updates_in(epoch) for epoch in (1, 2, 3)] == [plan.updates_per_epoch] * 3


@pytest.mark.slow
def test_the_last_epochs_that_collect_are_projected_and_trained():
    """Of the schedule only its beginnings and a stop are passed over, so that every component learns as later on."""
    parts = []
    check = check_projection(late(), 2, device="cpu", repeats=1, on_part=parts.append)
    assert parts == ["collect", "autoencoder", "world_model", "actor_critic", "epoch 1", "epoch 2", "epoch 3"]
    phases = check["benchmark"]["phases"]
    assert check["projected_s"]["collect"] == pytest.approx(40 * phases["collect"]["median_s"])
    assert check["projected_s"]["autoencoder"] == pytest.approx(6 * phases["autoencoder"]["median_s"])
    assert check["projected_s"]["world_model"] > 4 * phases["world_model"]["warm_median_s"]
    assert all(check["real_s"][name] > 0 for name in check["projected_s"])
    assert check["ratio"] == pytest.approx(sum(check["projected_s"].values()) / sum(check["real_s"].values()))


@pytest.mark.parametrize("epochs", [0, -1, 30])
def test_a_run_has_only_so_many_epochs(epochs):
    with pytest.raises(UsageError, match=f"check_epochs={epochs} must lie between 1 and 29"):
        check_projection(config(), epochs, device="cpu")

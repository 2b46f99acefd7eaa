import pytest
import torch
from torch import nn

from iris_gym.training.learner import Learner, LearnerPlan
from iris_gym.types import Segment

SEGMENT = Segment(*(torch.zeros(1, 1),) * 5)


def plan(**changes) -> LearnerPlan:
    values = {"start_after": 0, "stop_after": None, "updates_per_epoch": 3, "batch_size": 1, "segment_length": 1}
    return LearnerPlan(**(values | {"align": "start"} | changes))


class Slope(nn.Module):
    """A weight w whose loss is slope · w; remembers the modes it was asked in."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([5.0]))
        self.slope = slope
        self.modes: list[bool] = []

    def loss(self, segment):
        self.modes.append(self.training)
        value = (self.slope * self.weight).sum()
        return value, {"loss": value.detach()}


def learner(module: Slope, max_gradient_norm: float = 100.0, loss=None, **changes) -> Learner:
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    return Learner(
        "slope", module, optimizer, loss or module.loss, plan(**changes), max_gradient_norm=max_gradient_norm
    )


# The plan


def test_updates_fall_between_start_and_stop():
    counts = [plan(start_after=2, stop_after=4).updates_in(epoch) for epoch in range(1, 7)]
    assert counts == [0, 0, 3, 3, 0, 0]


def test_without_a_stop_updates_go_on():
    assert [plan(start_after=1).updates_in(epoch) for epoch in (1, 2, 1000)] == [0, 3, 3]


def test_the_learning_rate_falls_linearly_from_slow_after_to_a_twentieth_at_stop_after():
    slowing = plan(slow_after=2, stop_after=4)
    assert [slowing.learning_rate_factor(epoch) for epoch in range(1, 5)] == pytest.approx([1, 1, 0.525, 0.05])
    assert plan(stop_after=4).learning_rate_factor(4) == 1


# Updates


def test_an_update_steps_by_the_learning_rate_of_its_epoch():
    module = Slope(1.0)
    trained = learner(module, slow_after=0, stop_after=2)
    trained.update(SEGMENT, epoch=2)
    assert module.weight.item() == pytest.approx(5 - 0.05)
    trained.update(SEGMENT, epoch=1)
    assert module.weight.item() == pytest.approx(5 - 0.05 - 0.525)


def test_the_module_leaves_training_mode_even_where_its_loss_raises():
    module = Slope()

    def broken(segment):
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        learner(module, loss=broken).update(SEGMENT, epoch=1)
    assert not module.training


def test_an_update_is_a_step_of_the_optimizer_and_reports_loss_and_gradient():
    module = Slope(3.0)
    metrics = learner(module).update(SEGMENT, epoch=1)
    assert module.weight.item() == 2.0
    assert {name: value.item() for name, value in metrics.items()} == {"loss": 15.0, "gradient_norm": 3.0}
    assert not any(value.requires_grad for value in metrics.values())


def test_gradients_do_not_add_up_over_updates():
    module = Slope(3.0)
    trained = learner(module)
    for _ in range(2):
        trained.update(SEGMENT, epoch=1)
    assert module.weight.item() == -1.0
    assert trained.updates == 2


def test_a_long_gradient_is_clipped_and_reported_as_it_was():
    module = Slope(-40.0)
    metrics = learner(module, max_gradient_norm=10.0).update(SEGMENT, epoch=1)
    assert module.weight.item() == pytest.approx(15.0)
    assert metrics["gradient_norm"].item() == pytest.approx(40.0)


def test_the_module_trains_during_its_own_updates_only():
    module = Slope()
    trained = learner(module)
    assert not module.training
    trained.update(SEGMENT, epoch=1)
    assert module.modes == [True]
    assert not module.training


def test_another_module_in_the_loss_is_left_as_it_is():
    module, other = Slope(), Slope()
    other.eval()

    def loss(segment):
        value, metrics = module.loss(segment)
        return value * other.weight.detach().sum() + 0 * other.loss(segment)[0].detach(), metrics

    learner(module, loss=loss).update(SEGMENT, epoch=1)
    assert module.weight.item() == 0.0
    assert other.weight.item() == 5.0
    assert other.modes == [False]
    assert other.weight.grad is None

import numpy as np
import pytest
import torch
from torch import nn

from iris_gym import IRISConfig, assembly, build_models
from iris_gym.accelerate import version
from iris_gym.assembly import build_learners, build_replay
from iris_gym.benchmark.noise import fill_with_noise
from iris_gym.data.replay import Replay
from iris_gym.errors import RunError
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.hard_examples import CANDIDATES
from iris_gym.training.learner import Diverged, Learner, LearnerPlan
from iris_gym.training.randomness import RandomStreams
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


def test_the_first_epoch_may_have_more_and_those_after_the_stop_a_few():
    settling = plan(start_after=2, stop_after=4, first_updates=50, settled_updates=1, last_factor=0.1)
    assert [settling.updates_in(epoch) for epoch in range(1, 7)] == [0, 0, 50, 3, 1, 1]
    assert plan(start_after=2, first_updates=0).updates_in(3) == 0
    assert [settling.learning_rate_factor(epoch) for epoch in range(3, 7)] == [1, 1, 0.1, 0.1]


def test_the_learning_rate_falls_linearly_from_slow_after_to_the_last_factor_at_stop_after():
    slowing = plan(slow_after=2, stop_after=4, last_factor=0.2)
    assert [slowing.learning_rate_factor(epoch) for epoch in range(1, 5)] == pytest.approx([1, 1, 0.6, 0.2])
    assert plan(stop_after=4).learning_rate_factor(4) == 1


@pytest.mark.parametrize(("share", "hard"), [(0.0, 0), (0.5, 4), (0.7, 6), (1.0, 8)])
def test_candidates_for_hard_examples_are_drawn_from_the_second_epoch_on(share: float, hard: int):
    drawing = plan(start_after=2, stop_after=4, settled_updates=1, batch_size=8, hard_share=share)
    more = hard * (CANDIDATES - 1)
    assert [drawing.draws_in(epoch) for epoch in range(3, 7)] == [8, 8 + more, 8 + more, 8 + more]
    with Replay(None, chunk_rows=32) as replay:
        fill_with_noise(replay, 20, num_actions=2)
        segments = [drawing.draw(replay, np.random.default_rng(0), epoch) for epoch in (3, 4)]
    assert [len(segment.frames) for segment in segments] == [8, 8 + more]


# Updates


def test_an_update_steps_by_the_learning_rate_of_its_epoch():
    module = Slope(1.0)
    trained = learner(module, slow_after=0, stop_after=2, last_factor=0.1)
    trained.update(SEGMENT, epoch=2)
    assert module.weight.item() == pytest.approx(5 - 0.1)
    trained.update(SEGMENT, epoch=1)
    assert module.weight.item() == pytest.approx(5 - 0.1 - 0.55)


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
    expected = {"loss": 15.0, "gradient_norm": 3.0, "skipped_updates": 0.0}
    assert {name: value.item() for name, value in metrics.items()} == expected
    assert not any(value.requires_grad for value in metrics.values())


def test_several_passes_are_as_many_steps_on_what_was_prepared_once():
    module, prepared = Slope(0.5), []
    trained = learner(module, passes=3)
    trained.prepare = lambda segment: prepared.append(segment) or len(prepared)
    trained.loss = lambda batch: module.loss(batch * 10)
    metrics = trained.update(SEGMENT, epoch=1)
    assert prepared == [SEGMENT] and trained.updates == 1
    assert module.weight.item() == 5.0 - 3 * 0.5
    assert metrics["loss"].item() == 0.5 * (5.0 - 2 * 0.5), "of the last pass"


def test_an_update_with_a_bad_pass_is_one_bad_update():
    module, losses = Slope(), iter([1.0, float("nan"), 1.0] + [float("nan")] * 3)
    trained = learner(module, passes=3)
    trained.max_bad_updates = 2
    trained.loss = lambda _: ((next(losses) * module.weight).sum(), {"loss": torch.tensor(7.0)})
    metrics = trained.update(SEGMENT, epoch=1)  # no mean over updates is to have it, though its last pass was good
    assert metrics == {"loss": 0, "gradient_norm": 0, "skipped_updates": 1}
    assert module.weight.item() == 5.0 - 2 * 1.0 and trained.bad_in_a_row == 1
    with pytest.raises(Diverged):
        trained.update(SEGMENT, epoch=1)


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


# Updates that are no numbers


class Drifting(nn.Module):
    """A weight, and a buffer that the loss changes; the loss is `value` times the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([5.0]))
        self.register_buffer("seen", torch.tensor(0.0))
        self.value = 1.0

    def loss(self, segment):
        self.seen.add_(self.value)
        loss = (self.value * self.weight).sum()
        return loss, {"loss": loss.detach()}


def everything(trained: Learner) -> list[torch.Tensor]:
    moments = [value for state in trained.optimizer.state.values() for value in state.values()]
    return [value.clone() for value in (*trained.module.state_dict().values(), *moments)]


def drifting(**options) -> Learner:
    module = Drifting()
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    return Learner("drift", module, optimizer, module.loss, plan(), max_gradient_norm=10.0, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_no_number_changes_nothing_and_is_counted(value):
    trained = drifting()
    trained.update(SEGMENT, epoch=1)
    before = everything(trained)
    trained.module.value = value
    metrics = trained.update(SEGMENT, epoch=1)
    assert all(map(torch.equal, before, everything(trained)))
    assert {name: value.item() for name, value in metrics.items()} == {
        "loss": 0.0,
        "gradient_norm": 0.0,
        "skipped_updates": 1.0,
    }
    trained.module.value = 1.0
    trained.update(SEGMENT, epoch=1)
    assert trained.module.seen == 2.0
    assert not torch.equal(before[0], everything(trained)[0])


def test_a_good_update_among_bad_ones_lets_it_go_on_and_too_many_in_a_row_stop_it():
    trained = drifting(max_bad_updates=3)
    for value in ["nan", "inf", "1", "nan", "nan"]:
        trained.module.value = float(value)
        trained.update(SEGMENT, epoch=1)
    with pytest.raises(Diverged, match="the drift diverged: .* at its update 6") as raised:
        trained.update(SEGMENT, epoch=1)
    assert (raised.value.component, raised.value.update, raised.value.segment) == ("drift", 6, SEGMENT)
    assert isinstance(raised.value, RunError)


def test_a_gpu_is_asked_now_and_then_whether_it_stands_in_a_row_of_bad_ones():
    trained = drifting(max_bad_updates=3)
    trained.check_interval = 5
    for value in ["nan", "nan", "nan", "nan", "1", "nan", "nan", "nan", "nan"]:
        trained.module.value = float(value)
        trained.update(SEGMENT, epoch=1)
    with pytest.raises(Diverged, match="at its update 10"):
        trained.update(SEGMENT, epoch=1)


def test_the_fused_optimizer_that_a_gpu_takes_skips_as_exactly():
    """What `Learner` relies on there, on the CPU, where torch has the same kernels."""
    weight = nn.Parameter(torch.tensor([5.0]))
    optimizer = torch.optim.AdamW([weight], 0.1, fused=True)
    states = []
    for bad, gradient in [(0.0, 1.0), (1.0, float("nan"))]:
        weight.grad = torch.tensor([gradient])
        optimizer.found_inf = torch.tensor(bad)
        optimizer.step()
        states.append([weight.detach().clone(), *(value.clone() for value in optimizer.state[weight].values())])
    assert all(map(torch.equal, *states))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_behind_a_fused_optimizer_copies_and_caches_follow_too(monkeypatch, codebook, device):
    """Its kernels write to weights without torch's counting it, on the CPU as on the GPU that they are taken for."""
    monkeypatch.setattr(assembly, "_fused", lambda module: True)
    config, streams = IRISConfig.tiny(precision="bf16", codebook=codebook), RandomStreams(0, torch.device(device))
    models = build_models(config, 3, device)
    frozen = assembly.freeze(config, models)
    assert frozen.tokenizer and frozen.world_model
    cache = FrameCache(models.tokenizer, frozen.tokenizer)
    with build_replay(config, None, device=torch.device(device)) as replay:
        fill_with_noise(replay, 30, 3)
        shown = replay.sample_segments(8, 4, generator=streams.sampling, align="start")
        before = cache.reconstructions(shown).clone()
        for trained in build_learners(config, models, streams):
            counted = version(trained.module)
            trained.update(trained.plan.draw(replay, streams.sampling, 1), epoch=1)
            assert version(trained.module) > counted
        assert not torch.equal(cache.reconstructions(shown), before)
    frozen.refresh()
    for follower in (frozen.tokenizer, frozen.world_model):
        weights = zip(follower.copy.parameters(), follower.module.parameters(), strict=True)
        assert all(torch.equal(mine, theirs.to(mine.dtype)) for mine, theirs in weights)


def test_a_codebook_that_follows_by_averages_is_put_back(monkeypatch):
    config = IRISConfig.tiny()
    models = build_models(config, 3, "cpu")
    trained = build_learners(config, models, RandomStreams(0, torch.device("cpu")))[0]
    frames = torch.randint(0, 256, (4, 1, 3, 64, 64), dtype=torch.uint8)
    segment = Segment(frames, *(torch.zeros(4, 1),) * 4)
    trained.update(segment, epoch=1)
    before = everything(trained)
    with monkeypatch.context() as patch:
        patch.setattr(models.tokenizer, "pixel_error", lambda difference: difference.abs() * float("inf"))
        assert trained.update(segment, epoch=1)["skipped_updates"] == 1
    assert all(map(torch.equal, before, everything(trained)))

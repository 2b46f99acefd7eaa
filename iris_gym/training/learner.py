"""One component that learns: loss, backward, clip, step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from iris_gym.accelerate import PLAIN, Numerics
from iris_gym.data.replay import Replay
from iris_gym.errors import RunError
from iris_gym.training.hard_examples import CANDIDATES
from iris_gym.training.losses import Loss
from iris_gym.training.parts import LossParts
from iris_gym.types import Segment

LossAndMetrics = tuple[Tensor, dict[str, Tensor]]

CHECK_INTERVAL = 100
"""Updates on a GPU after which the host looks whether they were good; to look after each would mean to wait for it."""


class Diverged(RunError):
    """Too many updates in a row had a loss or a gradient that was no finite number."""

    def __init__(self, component: str, update: int, segment: Segment) -> None:
        super().__init__(f"the {component} diverged: its loss or gradient is not finite, at its update {update}")
        self.component = component
        self.update = update
        self.segment = segment


@dataclass(frozen=True, slots=True)
class LearnerPlan:
    """When and on what a component learns."""

    start_after: int  # epochs before its first update
    stop_after: int | None  # its last epoch with `updates_per_epoch`; None: no end
    updates_per_epoch: int
    batch_size: int
    segment_length: int
    align: Literal["start", "end"]  # where a segment meets its uniformly drawn step; it is padded on the other side
    slow_after: int | None = None  # its last epoch at the full learning rate; None: all
    first_updates: int | None = None  # in its first epoch; None: as many as in any other
    settled_updates: int = 0  # in each epoch after `stop_after`, at the last learning rate
    last_factor: float = 1.0  # of the learning rate, from `stop_after` on
    before_rewards: float = 0.0  # share of the segments whose steps are drawn from the `lead` steps up to a reward
    lead: int = 1
    hard_share: float = 0.0  # of a batch, from its second epoch on; the loss takes the hardest of what is drawn

    def updates_in(self, epoch: int) -> int:
        """Updates in `epoch`, counted from 1."""
        if epoch <= self.start_after:
            return 0
        if self.stop_after is not None and epoch > self.stop_after:
            return self.settled_updates
        if epoch == self.start_after + 1 and self.first_updates is not None:
            return self.first_updates
        return self.updates_per_epoch

    def draws_in(self, epoch: int) -> int:
        """Segments that are drawn for an update in `epoch`: the batch, and what is drawn to find hard examples."""
        hard = round(self.hard_share * self.batch_size) if epoch > self.start_after + 1 else 0
        return self.batch_size + hard * (CANDIDATES - 1)

    def draw(self, replay: Replay, generator: np.random.Generator, epoch: int) -> Segment:
        """What one update in `epoch` learns from."""
        return replay.sample_segments(
            self.draws_in(epoch),
            self.segment_length,
            generator=generator,
            align=self.align,
            before_rewards=self.before_rewards,
            lead=self.lead,
        )

    def learning_rate_factor(self, epoch: int) -> float:
        """1 up to `slow_after`, from there falling linearly to `last_factor` at `stop_after`, where it stays."""
        if self.stop_after is not None and epoch > self.stop_after:
            return self.last_factor
        if self.slow_after is None or self.stop_after is None or epoch <= self.slow_after:
            return 1.0
        passed = (epoch - self.slow_after) / (self.stop_after - self.slow_after)
        return 1.0 + (self.last_factor - 1.0) * passed


class Learner:
    """A module, its optimizer and its loss. The module is in training mode during its own updates and no others.

    With `loss_parts` a batch is gone through in parts, whose losses add up to `loss`.
    An update with a loss or gradient that is not finite is skipped: weights, buffers and moments stay as they are.
    After `max_bad_updates` of them in a row `update` raises `Diverged`. A GPU is asked every `CHECK_INTERVAL` updates
    whether it stands in such a row, and not of one that has ended before; there the optimizer has to be a fused one.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        plan: LearnerPlan,
        *,
        max_gradient_norm: float,
        numerics: Numerics = PLAIN,
        loss_parts: LossParts | None = None,
        max_bad_updates: int = 10,
    ) -> None:
        self.name = name
        self.module = module
        self.optimizer = optimizer
        self.loss = loss
        self.loss_parts = loss_parts
        self.plan = plan
        self.max_gradient_norm = max_gradient_norm
        self.numerics = numerics
        self.max_bad_updates = max_bad_updates
        device = next(module.parameters()).device
        self.bad_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self.check_interval = 1 if device.type == "cpu" else CHECK_INTERVAL
        self.learning_rates = [group["lr"] for group in optimizer.param_groups]
        self.updates = 0
        module.eval()

    def update(self, segment: Segment, epoch: int) -> dict[str, Tensor]:
        """One step on a segment; returns the loss's metrics and the gradient's norm, all still on the device.

        Where the step was skipped they are zeros, and `skipped_updates` is 1.
        """
        factor = self.plan.learning_rate_factor(epoch)
        for group, learning_rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * factor
        buffers = [buffer.clone() for buffer in self.module.buffers()]
        self.module.train()
        try:
            self.optimizer.zero_grad(set_to_none=True)
            loss, metrics = self._backward(segment)
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.max_gradient_norm)
            good = torch.isfinite(loss) & torch.isfinite(norm)
            self._step_where(good, buffers)
        finally:
            self.module.eval()
        self.updates += 1
        self._stop_where_diverged(good, segment)
        metrics = metrics | {"gradient_norm": norm.detach()}
        metrics = {name: torch.where(good, value, torch.zeros_like(value)) for name, value in metrics.items()}
        return metrics | {"skipped_updates": (~good).float()}

    def _backward(self, segment: Segment) -> LossAndMetrics:
        """Add up the gradient, in parts where these are given; returns the loss, detached, and its metrics."""
        parts = self._whole(segment) if self.loss_parts is None else self.loss_parts(segment)
        loss, total = segment.mask.new_zeros((), dtype=torch.float32), {}
        with self.numerics.update():
            while part := self._next(parts, segment):
                part[0].backward()
                loss = loss + part[0].detach()
                total = {name: total[name] + value if total else value for name, value in part[1].items()}
        return loss, total

    def _whole(self, segment: Segment) -> Iterator[LossAndMetrics]:
        yield self.loss(segment)

    def _next(self, parts: Iterator[LossAndMetrics], segment: Segment) -> LossAndMetrics | None:
        """The forward pass of the next part, in the dtype that the numerics say."""
        with self.numerics.forward(segment.frames.device):
            return next(parts, None)

    @torch.no_grad()
    def _step_where(self, good: Tensor, buffers: list[Tensor]) -> None:
        """Step if `good`, a scalar, else put back the `buffers`, which the loss may have changed."""
        if good.device.type == "cpu" and good:
            self._step()
            return
        if good.device.type != "cpu":  # fused kernels leave everything as it is where found_inf is 1
            self.optimizer.found_inf = (~good).float()  # pyright: ignore[reportAttributeAccessIssue]
            self._step()
        for buffer, before in zip(self.module.buffers(), buffers, strict=True):
            buffer.copy_(torch.where(good, buffer, before))

    def _step(self) -> None:
        """Step, and see that `version` tells copies and caches of it: what fused kernels write torch does not count."""
        self.optimizer.step()
        for parameter in self.module.parameters():
            torch.autograd.graph.increment_version(parameter)

    def _stop_where_diverged(self, good: Tensor, segment: Segment) -> None:
        self.bad_in_a_row = torch.where(good, 0, self.bad_in_a_row + 1)
        if self.updates % self.check_interval == 0 and int(self.bad_in_a_row) >= self.max_bad_updates:
            raise Diverged(self.name, self.updates, segment)

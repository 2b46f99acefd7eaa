"""One component that learns: loss, backward, clip, step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

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
    passes: int = 1  # steps that an update takes on one and the same segment

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

    The loss is of what `prepare` makes of a segment, once for all passes of an update; by default of the segment.
    With `loss_parts` a batch is gone through in parts, whose losses add up to `loss`.
    A step with a loss or gradient that is not finite is skipped: weights, buffers and moments stay as they are. After
    `max_bad_updates` updates in a row that skipped one, `update` raises `Diverged`. A GPU is asked every
    `CHECK_INTERVAL` updates whether it stands in such a row, and not of one that has ended before; there the optimizer
    has to be a fused one.
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
        prepare: Callable[[Segment], Any] = lambda segment: segment,
        loss_parts: LossParts | None = None,
        max_bad_updates: int = 10,
    ) -> None:
        self.name = name
        self.module = module
        self.optimizer = optimizer
        self.loss = loss
        self.prepare = prepare
        self.loss_parts = loss_parts
        self.plan = plan
        self.max_gradient_norm = max_gradient_norm
        self.numerics = numerics
        self.max_bad_updates = max_bad_updates
        self.device = next(module.parameters()).device
        self.bad_in_a_row = torch.zeros((), dtype=torch.int64, device=self.device)
        self.check_interval = 1 if self.device.type == "cpu" else CHECK_INTERVAL
        self.learning_rates = [group["lr"] for group in optimizer.param_groups]
        self.updates = 0
        module.eval()

    def update(self, segment: Segment, epoch: int) -> dict[str, Tensor]:
        """One step on a segment, or as many as the plan has passes; returns the last one's metrics and gradient norm.

        All are still on the device. Where a step was skipped they are zeros, and `skipped_updates` is 1.
        """
        factor = self.plan.learning_rate_factor(epoch)
        for group, learning_rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * factor
        metrics: dict[str, Tensor] = {}
        all_good = torch.ones((), dtype=torch.bool, device=self.device)
        self.module.train()
        try:
            batch = self._prepared(segment)
            for _ in range(self.plan.passes):
                metrics, good = self._pass(batch)
                all_good = all_good & good
        finally:
            self.module.eval()
        self.updates += 1
        self.bad_in_a_row = torch.where(all_good, 0, self.bad_in_a_row + 1)
        self._stop_where_diverged(segment)
        metrics = {name: torch.where(all_good, value, torch.zeros_like(value)) for name, value in metrics.items()}
        return metrics | {"skipped_updates": (~all_good).float()}

    def _prepared(self, segment: Segment) -> Any:
        with self.numerics.update(), self.numerics.forward(self.device):
            return self.prepare(segment)

    def _pass(self, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """One step on what was prepared, its metrics, and whether it was taken: () bool."""
        buffers = [buffer.clone() for buffer in self.module.buffers()]
        self.optimizer.zero_grad(set_to_none=True)
        loss, metrics = self._backward(batch)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.max_gradient_norm)
        good = torch.isfinite(loss) & torch.isfinite(norm)
        self._step_where(good, buffers)
        return metrics | {"gradient_norm": norm.detach()}, good

    def _backward(self, batch: Any) -> LossAndMetrics:
        """Add up the gradient, in parts where these are given; returns the loss, detached, and its metrics."""
        parts = self._whole(batch) if self.loss_parts is None else self.loss_parts(batch)
        loss, total = torch.zeros((), device=self.device), {}
        with self.numerics.update():
            while part := self._next(parts):
                part[0].backward()
                loss = loss + part[0].detach()
                total = {name: total[name] + value if total else value for name, value in part[1].items()}
        return loss, total

    def _whole(self, batch: Any) -> Iterator[LossAndMetrics]:
        yield self.loss(batch)

    def _next(self, parts: Iterator[LossAndMetrics]) -> LossAndMetrics | None:
        """The forward pass of the next part, in the dtype that the numerics say."""
        with self.numerics.forward(self.device):
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

    def _stop_where_diverged(self, segment: Segment) -> None:
        if self.updates % self.check_interval == 0 and int(self.bad_in_a_row) >= self.max_bad_updates:
            raise Diverged(self.name, self.updates, segment)

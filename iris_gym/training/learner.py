"""One component that learns: loss, backward, clip, step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from iris_gym.accelerate import PLAIN, Numerics
from iris_gym.training.losses import Loss
from iris_gym.training.parts import LossParts
from iris_gym.types import Segment

LAST_FACTOR = 0.05
"""Of the learning rate, in the last epoch of a component that slows before it stops."""


@dataclass(frozen=True, slots=True)
class LearnerPlan:
    """When and on what a component learns."""

    start_after: int  # epochs before its first update
    stop_after: int | None  # its last epoch with updates; None: no end
    updates_per_epoch: int
    batch_size: int
    segment_length: int
    align: Literal["start", "end"]  # where a segment meets its uniformly drawn step; it is padded on the other side
    slow_after: int | None = None  # its last epoch at the full learning rate; None: all

    def updates_in(self, epoch: int) -> int:
        """Updates in `epoch`, counted from 1."""
        if epoch <= self.start_after or (self.stop_after is not None and epoch > self.stop_after):
            return 0
        return self.updates_per_epoch

    def learning_rate_factor(self, epoch: int) -> float:
        """1 up to `slow_after`, from there falling linearly to `LAST_FACTOR` in the epoch `stop_after`."""
        if self.slow_after is None or self.stop_after is None or epoch <= self.slow_after:
            return 1.0
        passed = min((epoch - self.slow_after) / (self.stop_after - self.slow_after), 1.0)
        return 1.0 + (LAST_FACTOR - 1.0) * passed


class Learner:
    """A module, its optimizer and its loss. The module is in training mode during its own updates and no others.

    With `loss_parts` a batch is gone through in parts, whose losses add up to `loss`.
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
        loss_parts: LossParts | None = None,
        numerics: Numerics = PLAIN,
    ) -> None:
        self.name = name
        self.module = module
        self.optimizer = optimizer
        self.loss = loss
        self.loss_parts = loss_parts
        self.plan = plan
        self.max_gradient_norm = max_gradient_norm
        self.numerics = numerics
        self.learning_rates = [group["lr"] for group in optimizer.param_groups]
        self.updates = 0
        module.eval()

    def update(self, segment: Segment, epoch: int) -> dict[str, Tensor]:
        """One step on a segment; returns the loss's metrics and the gradient's norm, all still on the device."""
        factor = self.plan.learning_rate_factor(epoch)
        for group, learning_rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * factor
        self.module.train()
        try:
            self.optimizer.zero_grad(set_to_none=True)
            with self.numerics.update():
                metrics = self._backward(segment)
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.max_gradient_norm)
            self.optimizer.step()
        finally:
            self.module.eval()
        self.updates += 1
        return metrics | {"gradient_norm": norm.detach()}

    def _backward(self, segment: Segment) -> dict[str, Tensor]:
        """Add up the gradient, in parts where these are given; returns the loss's metrics."""
        parts = iter(self.loss_parts(segment) if self.loss_parts else map(self.loss, [segment]))
        total: dict[str, Tensor] = {}
        while part := self._next(parts, segment.frames.device):
            loss, metrics = part
            loss.backward()
            total = {name: total[name] + value if total else value for name, value in metrics.items()}
        return total

    def _next(self, parts: Iterator[tuple[Tensor, dict[str, Tensor]]], device: torch.device) -> Any:
        """The next part's loss and metrics, computed here and now; None after the last."""
        with self.numerics.forward(device):
            return next(parts, None)

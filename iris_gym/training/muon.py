"""Muon: matrices that move by orthogonalised momentum (Jordan et al. 2024)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the polynomial that takes singular values towards 1: steepest at 0, at the price of ending in 0.7 … 1.2."""

ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """AdamW, but for `matrices` (m, n) among the parameters.

    The momentum of each of these, with Nesterov's look ahead, is made orthogonal, and so moves a matrix in all
    directions alike, however little of the gradient lies in them. (A matrix that projects to queries, keys and values
    at once is one here, where the publication recommends three.) By a factor of 0.2 · √max(m, n) the root mean square
    of a step is a fifth of the learning rate, as AdamW's usually is (Liu et al. 2025, section 2.2). Weights decay as
    AdamW's do.

    In float32, for a CPU may only emulate bf16. Where `found_inf` is set, and 1, nothing changes, as in torch's fused
    optimizers.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        *,
        matrices: Iterable[Tensor],
        momentum: float = 0.95,
        **others: Any,
    ) -> None:
        super().__init__(groups, lr, **others)
        self.matrices = set(matrices)
        self.momentum = momentum
        unknown = self.matrices - {parameter for group in self.param_groups for parameter in group["params"]}
        assert not unknown, "matrices that are in no group would not move"

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = {matrix: matrix.grad for matrix in self.matrices}
        for matrix in self.matrices:
            matrix.grad = None  # AdamW passes over it
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := gradients.get(parameter)) is not None:
                    parameter.grad = gradient
                    self._move(parameter, gradient, group["lr"], group["weight_decay"])

    def _move(self, matrix: Tensor, gradient: Tensor, learning_rate: float, weight_decay: float) -> None:
        state = self.state[matrix]
        if not state:
            state["step"] = torch.zeros((), device=matrix.device)  # AdamW looks for it when a state is loaded
            state["exp_avg"] = torch.zeros_like(matrix)
        momentum = state["exp_avg"].lerp(gradient, 1 - self.momentum)
        direction = orthogonalised(gradient.lerp(momentum, self.momentum))
        length = 0.2 * max(matrix.shape) ** 0.5
        moved = matrix * (1 - learning_rate * weight_decay) - learning_rate * length * direction
        after = {state["step"]: state["step"] + 1, state["exp_avg"]: momentum, matrix: moved}
        found_inf = getattr(self, "found_inf", None)
        for tensor, value in after.items():
            tensor.copy_(value if found_inf is None else torch.where(found_inf.bool(), tensor, value))


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (m, n) with its singular values brought close to 1, by Newton and Schulz's iteration; zeros stay."""
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if wide is not matrix else x

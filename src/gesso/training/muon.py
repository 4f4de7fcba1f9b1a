"""Muon: momentum whose update has all its singular values near 1 (Jordan et al. 2024).

torch.optim.Muon takes matrices one at a time and no stacks of them, which is what the experts are;
this one orthogonalises all matrices of a shape in one product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

# The quintic of Jordan et al.: steepest at 0, so that five rounds bring small singular values up.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
# An update then has about the root mean square of AdamW's, and takes its learning rate and decay
# (Liu et al., arXiv 2502.16982, section 2.2).
_ADAMW_SCALE = 0.2


class Muon(torch.optim.Optimizer):
    """For weights (..., out, in) of at least two dimensions; those before are a stack of matrices.

    Nesterov momentum, decoupled weight decay. Parameters without a gradient stay as they are.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; a closure is called first for the loss and the gradients, as torch's do."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes.setdefault(weight.shape[-2:], []).append(weight)
            for shape, weights in shapes.items():
                self._update(weights, shape, group)
        return loss

    def _update(self, weights: list[Tensor], shape: torch.Size, group: dict[str, Any]) -> None:
        directions = [self._direction(weight, group["momentum"]) for weight in weights]
        stack = torch.cat([direction.reshape(-1, *shape) for direction in directions])
        updates = orthogonalize(stack).split([weight.shape[:-2].numel() for weight in weights])
        scale = group["lr"] * _ADAMW_SCALE * max(shape) ** 0.5
        for weight, update in zip(weights, updates, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(update.view_as(weight), alpha=scale)

    def _direction(self, weight: Tensor, momentum: float) -> Tensor:
        state, grad = self.state[weight], weight.grad
        assert grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(grad, 1 - momentum)
        return grad.lerp(state["momentum"], momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """(N, a, b) -> the same singular vectors, and singular values near 1 (about 0.7 to 1.2)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    linear, cubic, quintic = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear
        )
    return x.mT if tall else x

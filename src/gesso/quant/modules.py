"""Modules whose weights are stored in few bits and made wide for each product.

That is the definition, and what runs on a CPU; it saves memory and not time. Gradients go through
to the input; what was made wide is kept for them, unless activations are checkpointed. On a GPU,
where no gradient is wanted, kernels read the weights as they are stored.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesso.kernels import choice
from gesso.kernels.experts import LowRank, experts
from gesso.quant.formats import Format


class Stored(nn.Module):
    """The tensors that stand for one weight, of that `shape`."""

    def __init__(self, weight: Tensor, form: Format) -> None:
        super().__init__()
        self.form = form
        self.shape = weight.shape
        for name, tensor in form.quantize(weight.detach()).items():
            self.register_buffer(name, tensor)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by the format's names."""
        return dict(self.named_buffers())

    def room(self, name: str, device: torch.device | str) -> Tensor:
        """Where a tensor's values go. Laid out without memory, it gets its own when first asked
        for."""
        if self.get_buffer(name).is_meta:
            setattr(self, name, torch.empty_like(self.get_buffer(name), device=device))
        return self.get_buffer(name)

    def fill(self, weight: Tensor, matrix: int | None = None) -> None:
        """Round a wide weight into its place, or of a stack the one matrix of that number."""
        for name, tensor in self.form.quantize(weight).items():
            room = self.room(name, weight.device)
            (room if matrix is None else room[matrix]).copy_(tensor)

    def wide(self, dtype: torch.dtype) -> Tensor:
        return self.form.dequantize(self.tensors, dtype)


class QuantLinear(nn.Module):
    """In place of a linear map without bias."""

    def __init__(self, weight: Tensor, form: Format) -> None:
        super().__init__()
        self.weight = Stored(weight, form)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), the product in the dtype of x."""
        if choice.runs_kernels(x):
            from gesso.kernels.gpu.linear import linear

            return linear(x.contiguous(), self.weight.tensors)
        return F.linear(x, self.weight.wide(x.dtype))


class StackedExperts(Protocol):
    """What a layer's experts are: gate and up (E, 2F, M), down (E, M, F)."""

    gate_up: nn.Parameter
    down: nn.Parameter


class QuantExperts(nn.Module):
    """In place of a layer's experts."""

    def __init__(self, base: StackedExperts, form: Format) -> None:
        super().__init__()
        self.gate_up = Stored(base.gate_up, form)
        self.down = Stored(base.down, form)

    def forward(
        self, x: Tensor, index: Tensor, weight: Tensor, change: LowRank | None = None
    ) -> Tensor:
        """x (T, M), index and weight (T, k) -> (T, M)."""
        if change is None and choice.runs_kernels(x):
            from gesso.kernels.gpu.experts import experts as product

            return product(x.contiguous(), index, weight, self.gate_up.tensors, self.down.tensors)
        gate_up, down = self.gate_up.wide(x.dtype), self.down.wide(x.dtype)
        return experts(x, index, weight, gate_up, down, change)

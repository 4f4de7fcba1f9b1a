"""Root-mean-square norm: y = w * x / sqrt(mean(x^2) + eps), computed in float32.

The weight multiplies as it stands, not as 1 + w, and in float32, before the cast back to the
input's dtype (model-spec §3, traps 1 and 4). The backward pass is written out: the one that
autograd derives reads and writes the float32 copy nine times as long.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.kernels.precision import at_least_float32


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """The definition, differentiated by autograd."""
    x32 = at_least_float32(x)
    y = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * at_least_float32(weight)).to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        y, inverse = _normalised(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (y if weight is None else y.mul_(at_least_float32(weight))).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        y = at_least_float32(x) * inverse
        grad32 = at_least_float32(grad)
        d_weight = None
        if weight is not None:
            d_weight = (grad32 * y).flatten(0, -2).sum(0).to(weight.dtype)
            grad32 = grad32 * at_least_float32(weight)
        # d x = (g - y * mean(g * y)) / rms, g = grad * w
        along = torch.linalg.vecdot(grad32, y).div_(x.shape[-1])[..., None]
        return torch.addcmul(grad32, y, along, value=-1).mul_(inverse).to(x.dtype), d_weight, None


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Norm over the last dimension. x (..., M), weight (M,) or None; returns the dtype of x."""
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    if x.dtype == torch.float32:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    y, _ = _normalised(x, eps)
    return (y if weight is None else y.mul_(at_least_float32(weight))).to(x.dtype)


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x32 = at_least_float32(x)
    inverse = torch.linalg.vecdot(x32, x32).div_(x.shape[-1]).add_(eps).rsqrt_()[..., None]
    return x32 * inverse, inverse

"""RMS norm as a module, with or without a weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gesso.kernels.norm import rms_norm


class RMSNorm(nn.Module):
    """y = w * x / rms(x). `weighted=False` where the checkpoint stores no tensor (trap 4)."""

    def __init__(self, size: int, *, eps: float, weighted: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size)) if weighted else None

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)

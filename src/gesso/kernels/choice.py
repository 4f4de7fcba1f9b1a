"""Whether an op runs as a Triton kernel or as its torch reference."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor


def runs_kernels(x: Tensor) -> bool:
    """For an op on x and its like: on a GPU, where no gradient is wanted."""
    return x.is_cuda and not torch.is_grad_enabled() and has_triton()


@cache
def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None

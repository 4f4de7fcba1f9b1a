"""Whether an op runs as a Triton kernel or as its torch reference."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

# Of shared memory that one program may take, in bytes: what the kernels' tiles are made for. GPUs
# from Hopper on have it in data centres; with less, larger head dimensions do not fit.
_SHARED = 232_448


def runs_kernels(x: Tensor) -> bool:
    """For an op on x and its like: on a GPU that they are made for, where no gradient is wanted."""
    return x.is_cuda and not torch.is_grad_enabled() and has_kernels(x.device)


def has_kernels(device: torch.device) -> bool:
    """Whether kernels run there: on a GPU with room for their tiles, and with Triton installed."""
    return device.type == "cuda" and _has_triton() and _shared_memory(device) >= _SHARED


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may take; 0 where torch does not say, as with ROCm."""
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 0)

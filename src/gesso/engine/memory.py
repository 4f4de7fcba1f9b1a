"""What fits: the weights, the work of a step, and how much is left for keys and values.

A request is admitted when all that it may ever need is free, so nothing runs out of memory in the
middle of an answer.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch

from gesso.engine.stepper import Stepper
from gesso.model.network import Network
from gesso.model.quantize import stored_bytes

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# Activations of a token that a layer holds at once, in float32, as long as the widest of them.
_ACTIVATIONS = 16
# Of what the machine has, the rest being for the allocator's gaps and for others.
_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """In bytes. limit: for all together. step: what canvases take while they are denoised and a
    chunk of a prompt while it is encoded. room: for keys and values."""

    limit: int
    weights: int
    step: int

    @property
    def room(self) -> int:
        return self.limit - self.weights - self.step

    def __str__(self) -> str:
        parts = (
            f"{self.weights / 1e9:.2f} weights",
            f"{self.step / 1e9:.2f} a step",
            f"{self.room / 1e9:.2f} keys and values",
        )
        return f"{self.limit / 1e9:.2f} GB: {', '.join(parts)}"


def plan_memory(
    network: Network, stepper: Stepper, *, rows: int, chunk: int, limit: int | str | None = None
) -> MemoryPlan:
    """For `rows` canvases at once and prompts in chunks of so many tokens.

    limit: bytes, or a string such as "18GB"; None takes most of what the device has. ValueError
    when not even one request of one canvas would fit.
    """
    config = network.config
    wide = max(config.text.intermediate_size, config.text.hidden_size)
    activations = max(rows * config.canvas_length, chunk) * wide * 4 * _ACTIVATIONS
    plan = MemoryPlan(
        limit=_device_bytes(network.device) if limit is None else parse_bytes(limit),
        weights=stored_bytes(network) + (network.compiled.bytes if network.compiled else 0),
        step=stepper.workspace(rows=rows, chunk=chunk) + activations,
    )
    least = network.cache_bytes(config.canvas_length)
    if plan.room < least:
        raise ValueError(
            f"max_memory: got {plan.limit / 1e9:.2f} GB; the weights take "
            f"{plan.weights / 1e9:.2f}, a step of {rows} rows {plan.step / 1e9:.2f}, and one "
            f"canvas {least / 1e9:.2f}: give more, fewer rows, or quantize"
        )
    return plan


def parse_bytes(amount: int | str) -> int:
    """A number of bytes, or a string such as "18GB" or "512 MiB". ValueError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(amount))
    if isinstance(amount, bool) or not found or found[2] not in _UNITS:
        raise ValueError(
            f"max_memory: got {amount!r}; expected bytes, or a string such as '18GB' or '512MiB'"
        )
    return int(float(found[1]) * _UNITS[found[2]])


def _device_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[1])
    return int(_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

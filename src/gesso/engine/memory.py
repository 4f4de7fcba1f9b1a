"""What fits: the weights, the work of a step, and how much is left for keys and values.

A request is admitted when all that it may ever need is free, so nothing runs out of memory in the
middle of an answer.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from gesso.cache import cache_bytes
from gesso.engine.stepper import Stepper
from gesso.model.network import Network
from gesso.model.quantize import stored_bytes

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# Of what is free on the device, the rest being for the allocator's gaps and for others.
_SHARE = 0.9
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
# Folder, limit and use of a container, by the second version of control groups and by the first.
_CONTAINER = (
    (_CGROUP, "memory.max", "memory.current"),
    (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


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

    limit: bytes, or a string such as "18GB"; None takes the weights, which are there already, and
    most of what is free now. ValueError when not even one request of one canvas would fit.
    """
    config = network.config
    # Windows are cut when a chunk's pass, or that over a finished canvas, ends.
    kept_in = network.kv_cache_dtype or network.dtype
    columns = max(chunk, config.canvas_length)
    uncut = cache_bytes(config.text, columns, kept_in, trim=False)
    weights = stored_bytes(network) + (network.compiled.bytes if network.compiled else 0)
    free = int(_SHARE * _free_bytes(network.device)) if limit is None else 0
    plan = MemoryPlan(
        limit=weights + free if limit is None else parse_bytes(limit),
        weights=weights,
        step=stepper.workspace(rows=rows, chunk=chunk) + uncut,
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
    if isinstance(amount, bool) or not found or found[2] not in _UNITS or len(found[1]) > 30:
        raise ValueError(
            f"max_memory: got {amount!r}; expected bytes, or a string such as '18GB' or '512MiB'"
        )
    return int(float(found[1]) * _UNITS[found[2]])


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _MEMINFO.exists():  # what the system would give, files in its cache not counted as used
        found = re.search(r"MemAvailable:\s*(\d+) kB", _MEMINFO.read_text())
        if found:
            free = int(found[1]) * 2**10
    for folder, limit, used in _CONTAINER:  # which the system's own figures do not know of
        try:
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            files = re.findall(
                r"^(?:in)?active_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE
            )
        except (OSError, ValueError):  # no such file, or "max"
            continue
        # Its use counts files in the system's cache, which gives way.
        free = min(free, left + sum(map(int, files)))
    return max(0, free)

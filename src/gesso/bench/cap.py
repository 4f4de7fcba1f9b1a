"""A hard limit on what torch may take of a GPU's memory, to show what fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gesso.engine.memory import parse_bytes


def parse_cap(cap: str, device: torch.device) -> int:
    """Bytes. ValueError for what is no amount, and where nothing holds to one."""
    try:
        limit = parse_bytes(cap)
    except ValueError:
        raise ValueError(f"cap: got {cap!r}; expected bytes, or a string such as '18GB'") from None
    if device.type != "cuda":
        raise ValueError(f"cap: got {cap!r} on {device}; only a GPU's memory has one: leave it out")
    return limit


@contextmanager
def capped(device: torch.device, limit: int | None) -> Iterator[None]:
    """Past so many bytes torch finds no more memory on this GPU, weights that are there counted."""
    if limit is None:
        yield
        return
    torch.cuda.empty_cache()  # what was in the way while the weights were made
    room = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / room), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)

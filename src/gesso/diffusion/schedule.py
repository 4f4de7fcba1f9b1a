"""Temperature over a canvas's steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class TemperatureSchedule(Protocol):
    def __call__(self, step: int, steps: int) -> float:
        """What divides the logits at step 0 .. steps - 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class LinearTemperature:
    """From `start` at the first step towards `end`, which would come after the last (trap 18)."""

    start: float
    end: float

    def __call__(self, step: int, steps: int) -> float:
        # In float32, as the reference computes it: the bits of the logits depend on it.
        remaining = torch.tensor(steps - step, dtype=torch.float32) / steps
        return float(self.end + (self.start - self.end) * remaining)

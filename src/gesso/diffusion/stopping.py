"""When a canvas is finished before its last step (model-spec §6, trap 22)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Stopping(Protocol):
    """Sees each step's argmax canvas beside the earlier ones, and its entropies."""

    @property
    def memory(self) -> int:
        """How many earlier argmax canvases it looks at."""
        ...

    def __call__(self, argmax: Tensor, earlier: Tensor, entropy: Tensor) -> Tensor:
        """argmax (B, L), earlier (B, memory, L) with -1 before the first step, entropy (B, L) in
        nats -> (B,) bool."""
        ...


@dataclass(frozen=True, kw_only=True)
class StableAndConfident:
    """The last `stability` argmax canvases equal this one, and the mean entropy is below
    `confidence`."""

    stability: int
    confidence: float

    @property
    def memory(self) -> int:
        return self.stability

    def __call__(self, argmax: Tensor, earlier: Tensor, entropy: Tensor) -> Tensor:
        stable = (earlier == argmax[:, None]).all(-1).all(-1)
        return stable & (entropy.mean(-1) < self.confidence)


@dataclass(frozen=True, kw_only=True)
class NeverEarly:
    """Every canvas takes all its steps."""

    memory: int = 0

    def __call__(self, argmax: Tensor, earlier: Tensor, entropy: Tensor) -> Tensor:
        return torch.zeros(len(argmax), dtype=torch.bool, device=argmax.device)

"""Reading a canvas's logits, and choosing which positions to accept (model-spec §6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Belief(NamedTuple):
    """What tempered logits say: probabilities (B, L, V), entropy (B, L) in nats, argmax (B, L)."""

    probabilities: Tensor
    entropy: Tensor
    argmax: Tensor


class Acceptance(Protocol):
    def __call__(self, entropy: Tensor) -> Tensor:
        """(B, L) entropies in nats -> (B, L) bool: positions that keep their sampled token."""
        ...


@dataclass(frozen=True, kw_only=True)
class EntropyBound:
    """Accept the most certain positions while the entropy of the surer ones stays in the bound.

    The j-th surest is accepted iff the entropies before it sum to at most `bound`: its own does
    not count, so the surest always is (EB-Sampler, arXiv 2505.24857; trap 20). `bound` in nats,
    one for all canvases or (B, 1).
    """

    bound: float | Tensor

    def __call__(self, entropy: Tensor) -> Tensor:
        ascending, order = entropy.sort(dim=-1, stable=True)
        earlier = ascending.cumsum(-1) - ascending
        return torch.zeros_like(entropy, dtype=torch.bool).scatter(-1, order, earlier <= self.bound)


def believe(logits: Tensor) -> Belief:
    """Tempered logits (B, L, V) float32 -> probabilities, entropy and argmax, all in float32."""
    probabilities = logits.softmax(-1)
    entropy = -torch.linalg.vecdot(probabilities, logits.log_softmax(-1))
    return Belief(probabilities, entropy, logits.argmax(-1))

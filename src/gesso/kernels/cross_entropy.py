"""Cross-entropy through the softcapped head, without logits of every row in memory at once.

    loss = sum_i w_i * (logsumexp(z_i) - z_i[target_i]),   z = cap * tanh(h E^T / cap)

Rows go in chunks that stay in the processor's cache, and the gradient of a chunk is taken while
its logits are there: for N rows and V ids this saves writing and reading N x V float32 values
some ten times. With an offset, z_i[observed_i] is raised by offset_i before the softmax.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.kernels.precision import at_least_float32

# Rows x ids of one chunk: 1M float32 values are 4 MB.
_CHUNK = 1 << 20


class Offset(NamedTuple):
    """Raises one logit of each row: the token observed there (N,) int64 and by how much (N,)."""

    observed: Tensor
    amount: Tensor


def cross_entropy_reference(
    hidden: Tensor,
    head: Tensor,
    target: Tensor,
    weight: Tensor,
    cap: float,
    offset: Offset | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition. hidden (N, M), head (V, M), target (N,), weight (N,) -> loss (), hits (N,).

    hits: whether the highest logit, offset included, is the target's.
    """
    product = F.linear(hidden, head)
    logits = cap * torch.tanh(at_least_float32(product) / cap)
    if offset is not None:
        logits = logits.scatter_add(1, offset.observed[:, None], offset.amount[:, None])
    loss = F.cross_entropy(logits, target, reduction="none")
    return (loss * weight).sum(), logits.argmax(-1) == target


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        target: Tensor,
        weight: Tensor,
        cap: float,
        offset: Offset | None,
    ) -> tuple[Tensor, Tensor]:
        to_hidden, to_head, *_ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if to_hidden else None
        # A frozen head is as large as the vocabulary, and so would its gradient be.
        d_head = torch.zeros_like(at_least_float32(head)) if to_head else None
        loss = torch.zeros((), dtype=weight.dtype, device=hidden.device)
        hits = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        # Shapes alone take no memory: all rows at once.
        size = len(hidden) if hidden.is_meta else max(1, _CHUNK // len(head))
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            h, wanted = hidden[rows], target[rows, None]
            capped = at_least_float32(F.linear(h, head)).div_(cap).tanh_()
            logits = capped * cap
            if offset is not None:
                logits.scatter_add_(1, offset.observed[rows, None], offset.amount[rows, None])
            hits[rows] = logits.argmax(-1) == target[rows]
            total = logits.logsumexp(-1, keepdim=True)
            loss += ((total - logits.gather(1, wanted))[:, 0] * weight[rows]).sum()
            if d_hidden is None and d_head is None:
                continue
            # d loss / d product = w (softmax(z) - onehot) * (1 - tanh^2)
            delta = logits.sub_(total).exp_()
            delta.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=delta.dtype))
            delta.mul_(weight[rows, None]).mul_(capped.square_().neg_().add_(1))
            delta = delta.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[rows] = delta @ head
            if d_head is not None:
                d_head += delta.T @ h
        ctx.save_for_backward(d_hidden, None if d_head is None else d_head.to(head.dtype))
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors
        found = [None if d is None else d * grad for d in (d_hidden, d_head)]
        return found[0], found[1], None, None, None, None


def cross_entropy(
    hidden: Tensor,
    head: Tensor,
    target: Tensor,
    weight: Tensor,
    cap: float,
    offset: Offset | None = None,
) -> tuple[Tensor, Tensor]:
    """As `cross_entropy_reference`; gradients flow to hidden and head."""
    return _CrossEntropy.apply(hidden, head, target, weight, cap, offset)

"""Mixture of experts: tokens sorted by expert, then one product over all groups.

    out[t] = sum_j weight[t, j] * down[e] (gelu_tanh(gate[e] x[t]) * (up[e] x[t])),  e = index[t, j]

Only chosen (token, expert) pairs are computed, and no expert is launched by itself. Without
gradients each group is filled up with zeros to a multiple of a few rows, so that a row's bits do
not depend on how many tokens share its expert. What the grouped product does not take goes through
a batched one, with all groups of the longest one's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.kernels.geglu import geglu

# Multiples of so many rows keep the CPU's matrix kernels on one code path.
_GROUP_ROWS = 16


# Rows sorted by expert times (E, out, in) -> rows of `out`.
Product = Callable[[Tensor, Tensor], Tensor]


class LowRank(NamedTuple):
    """What a LoRA adapter adds to the experts' weights: scale * b @ a, never multiplied out.

    gate_up_a (E, r, M), gate_up_b (E, 2F, r), down_a (E, r, F), down_b (E, M, r).
    """

    gate_up_a: Tensor
    gate_up_b: Tensor
    down_a: Tensor
    down_b: Tensor
    scale: float


def experts(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    gate_up: Tensor,
    down: Tensor,
    change: LowRank | None = None,
) -> Tensor:
    """x (T, M), index (T, k) int64, weight (T, k) float32, gate_up (E, 2F, M), down (E, M, F).

    Rows 0..F-1 of gate_up are the gate, the rest the up projection (trap 10). Returns (T, M) in
    the dtype of x; weights multiply in float32, the k products are added in the dtype of x.
    """
    order, counts = group_by_expert(index, len(gate_up))
    rows = x[order // index.shape[1]]  # (T * k, M), sorted by expert
    expert = index.flatten()[order]
    if not _can_group(gate_up, down, *(change or ())[:4]):
        y = _padded(rows, expert, counts, gate_up, down, change)
    elif torch.is_grad_enabled() or x.device.type != "cpu":
        y = _grouped(rows, counts, gate_up, down, change)
    else:
        y = _filled_up(rows, expert, counts, gate_up, down, change)
    return combine(y, order, weight)


def group_by_expert(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """index (T, k) -> the order (T * k,) that sorts the pairs by expert, and each one's pairs (E,).

    Pair i is token i // k.
    """
    flat = index.flatten()
    order = flat.argsort(stable=True)
    return order, (flat[:, None] == torch.arange(count, device=index.device)).sum(0)


def combine(y: Tensor, order: Tensor, weight: Tensor) -> Tensor:
    """What the experts say of the pairs (T * k, M), in that order, weighted (T, k) -> (T, M)."""
    y = (y * weight.flatten()[order, None]).to(y.dtype)
    unsorted = torch.empty_like(y).index_copy(0, order, y)
    return unsorted.view(*weight.shape, y.shape[1]).sum(1)


def _can_group(*weights: Tensor) -> bool:
    """Whether the grouped product takes these: rows of a multiple of 16 bytes, in bf16, or on a
    CPU in float32."""
    aligned = not any(t.shape[2] * t.element_size() % 16 for t in weights)
    dtype, device = weights[0].dtype, weights[0].device.type
    return aligned and (dtype == torch.bfloat16 or (dtype == torch.float32 and device == "cpu"))


def _round_up(rows: int) -> int:
    return -(-rows // _GROUP_ROWS) * _GROUP_ROWS


def _padded(
    rows: Tensor,
    expert: Tensor,
    counts: Tensor,
    gate_up: Tensor,
    down: Tensor,
    change: LowRank | None,
) -> Tensor:
    # Shapes alone do not say how long the longest group is: then all are.
    longest = -(-len(rows) // len(counts)) if rows.is_meta else int(counts.max())
    size = _round_up(longest)
    starts = counts.cumsum(0) - counts  # (E,)
    slot = expert * size + torch.arange(len(rows), device=rows.device) - starts[expert]
    padded = rows.new_zeros(len(counts) * size, rows.shape[1]).index_copy(0, slot, rows)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return torch.bmm(x, weight.transpose(1, 2))  # (E, size, out)

    y = _mlp(padded.view(len(counts), size, rows.shape[1]), product, gate_up, down, change)
    return y.flatten(0, 1)[slot]  # (T * k, M)


def _grouped(
    rows: Tensor, counts: Tensor, gate_up: Tensor, down: Tensor, change: LowRank | None
) -> Tensor:
    ends = counts.cumsum(0).to(torch.int32)

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return F.grouped_mm(x, weight.transpose(1, 2), offs=ends)  # (T * k, out)

    return _mlp(rows, product, gate_up, down, change)  # (T * k, M)


def _filled_up(
    rows: Tensor,
    expert: Tensor,
    counts: Tensor,
    gate_up: Tensor,
    down: Tensor,
    change: LowRank | None,
) -> Tensor:
    sizes = (counts + _GROUP_ROWS - 1) // _GROUP_ROWS * _GROUP_ROWS  # (E,)
    moved = (sizes.cumsum(0) - sizes) - (counts.cumsum(0) - counts)
    slot = torch.arange(len(rows), device=rows.device) + moved[expert]
    # As many as there can be, whatever the counts are; what lies behind the last group is not read.
    most = len(rows) + len(counts) * (_GROUP_ROWS - 1)
    spread = rows.new_zeros(most, rows.shape[1]).index_copy_(0, slot, rows)
    return _grouped(spread, sizes, gate_up, down, change)[slot]  # (T * k, M)


def _mlp(
    x: Tensor, product: Product, gate_up: Tensor, down: Tensor, change: LowRank | None
) -> Tensor:
    h = product(x, gate_up)
    if change is not None:
        h = h + change.scale * product(product(x, change.gate_up_a), change.gate_up_b)
    h = geglu(*h.chunk(2, dim=-1))
    y = product(h, down)
    if change is not None:
        y = y + change.scale * product(product(h, change.down_a), change.down_b)
    return y

"""Root-mean-square norms, and the two places of a layer where they meet the residual.

    norm(x; w) = w * x / sqrt(mean(x^2) + eps)

A layer has seven norms over the hidden size, and two residual sums. They lie in two places, each
one kernel here, which takes every row into registers once:

    enter_feed_forward     x += norm(attention; post_attention)
                           norm(x; mlp), norm(x; moe), norm(x) * scale / sqrt(M) for the router
    leave_feed_forward     x = (x + norm(norm(dense; post_mlp) + norm(sparse; post_moe); post))
                               * scalar
                           norm(x; attention) of the next layer

Rows of M values read and written a layer: 2 + 4 and 3 + 2, where one operator after the other
moves 14 + 8 (a norm counts 2, a sum 3). Within a kernel everything is float32 and only what is
written is rounded; a norm of x is taken from x as it was rounded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _inverse(x, M: tl.constexpr, eps):
    """1 / rms of a row; what lies past M is zero."""
    return 1.0 / tl.sqrt(tl.sum(x * x, 0) / M + eps)


@triton.jit
def _row(pointer, column, in_row):
    return tl.load(pointer + column, mask=in_row, other=0.0).to(tl.float32)


@triton.jit
def _write(pointer, column, in_row, value):
    tl.store(pointer + column, value.to(pointer.dtype.element_ty), mask=in_row)


@triton.jit
def _norm_kernel(
    x, weight, y, stride, eps, M: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    in_row = column < M
    values = _row(x + row * stride, column, in_row)
    values *= _inverse(values, M, eps)
    if WEIGHTED:
        values *= _row(weight, column, in_row)
    _write(y + row * M, column, in_row, values)


@triton.jit
def _enter_kernel(
    x, attended, post, mlp, moe, router, new_x, dense, sparse, routed, eps,
    M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start, column = tl.program_id(0).to(tl.int64) * M, tl.arange(0, BLOCK)
    in_row = column < M
    out = _row(attended + start, column, in_row)
    out *= _inverse(out, M, eps) * _row(post, column, in_row)
    total = (_row(x + start, column, in_row) + out).to(new_x.dtype.element_ty)
    tl.store(new_x + start + column, total, mask=in_row)
    # Three norms of one x share their root mean square.
    values = total.to(tl.float32)
    values *= _inverse(values, M, eps)
    _write(dense + start, column, in_row, values * _row(mlp, column, in_row))
    _write(sparse + start, column, in_row, values * _row(moe, column, in_row))
    scale = _row(router, column, in_row) / tl.sqrt(M * 1.0)
    _write(routed + start, column, in_row, values * scale)


@triton.jit
def _leave_kernel(
    x, dense, sparse, post_mlp, post_moe, post, scalar, next_weight, new_x, normed, stride, eps,
    M: tl.constexpr, NEXT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start, column = tl.program_id(0).to(tl.int64) * M, tl.arange(0, BLOCK)
    in_row = column < M
    one = _row(dense + start, column, in_row)
    other = _row(sparse + start, column, in_row)
    out = one * _inverse(one, M, eps) * _row(post_mlp, column, in_row)
    out += other * _inverse(other, M, eps) * _row(post_moe, column, in_row)
    out *= _inverse(out, M, eps) * _row(post, column, in_row)
    factor = tl.load(scalar + tl.program_id(0) * stride).to(tl.float32)
    total = (_row(x + start, column, in_row) + out) * factor
    total = total.to(new_x.dtype.element_ty)
    tl.store(new_x + start + column, total, mask=in_row)
    if NEXT:
        values = total.to(tl.float32)
        values *= _inverse(values, M, eps) * _row(next_weight, column, in_row)
        _write(normed + start, column, in_row, values)


class FeedForwardInputs(NamedTuple):
    """x after attention, and what the dense MLP, the experts and the router read: (..., M)."""

    x: Tensor
    dense: Tensor
    sparse: Tensor
    router: Tensor


class LayerOutput(NamedTuple):
    """x after a layer, and the next norm of it, or None: (..., M)."""

    x: Tensor
    normed: Tensor | None


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x (..., M), rows evenly spaced and each contiguous; weight (M,) or None. Returns a
    contiguous tensor of x's shape and dtype."""
    size = x.shape[-1]
    rows = x.view(-1, size)
    assert rows.stride(1) == 1
    assert weight is None or weight.is_contiguous()
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    block = triton.next_power_of_2(size)
    _norm_kernel[(len(rows),)](
        rows, weight if weight is not None else x, y, rows.stride(0), eps,
        M=size, WEIGHTED=weight is not None, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return y


def enter_feed_forward(
    x: Tensor,
    attended: Tensor,
    *,
    post_attention: Tensor,
    mlp: Tensor,
    moe: Tensor,
    router: Tensor,
    eps: float,
) -> FeedForwardInputs:
    """From the attention's result to what both branches and the router read.

    x and attended (..., M) of one dtype, contiguous; the weights (M,): three norms', and the
    router's scale.
    """
    size, block = x.shape[-1], triton.next_power_of_2(x.shape[-1])
    assert x.shape == attended.shape
    assert x.dtype == attended.dtype
    assert x.is_contiguous()
    assert attended.is_contiguous()
    assert all(t.shape == (size,) for t in (post_attention, mlp, moe, router))
    out = FeedForwardInputs(*(torch.empty_like(x) for _ in range(4)))
    _enter_kernel[(x.numel() // size,)](
        x, attended, post_attention, mlp, moe, router, *out, eps,
        M=size, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return out


def leave_feed_forward(
    x: Tensor,
    dense: Tensor,
    sparse: Tensor,
    *,
    post_mlp: Tensor,
    post_moe: Tensor,
    post: Tensor,
    scalar: Tensor,
    next_norm: Tensor | None,
    eps: float,
) -> LayerOutput:
    """From both branches' results to the layer's, and the norm that is taken of it next.

    x, dense and sparse (..., M) of one dtype, contiguous; the norms' weights (M,); scalar one
    number, or one a row. next_norm: the next layer's attention norm, or the network's last.
    """
    size, block = x.shape[-1], triton.next_power_of_2(x.shape[-1])
    assert x.shape == dense.shape == sparse.shape
    assert x.dtype == dense.dtype == sparse.dtype
    assert x.is_contiguous()
    assert dense.is_contiguous()
    assert sparse.is_contiguous()
    assert all(t.shape == (size,) for t in (post_mlp, post_moe, post))
    assert scalar.numel() in (1, x.numel() // size)
    assert scalar.is_contiguous()
    new_x = torch.empty_like(x)
    normed = None if next_norm is None else torch.empty_like(x)
    _leave_kernel[(x.numel() // size,)](
        x, dense, sparse, post_mlp, post_moe, post, scalar,
        next_norm if next_norm is not None else post, new_x, normed if normed is not None else x,
        int(scalar.numel() > 1), eps, M=size, NEXT=next_norm is not None, BLOCK=block,
        num_warps=_warps(block),
    )  # fmt: skip
    return LayerOutput(new_x, normed)


def _warps(block: int) -> int:
    """16 values a thread of a long row."""
    return max(1, min(8, block // 512))

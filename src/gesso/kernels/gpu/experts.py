"""Mixture of experts for few tokens an expert, from weights as they are stored.

    out[t] = sum_j weight[t, j] * down[e] (gelu_tanh(gate[e] x[t]) * (up[e] x[t])),  e = index[t, j]

A canvas of 256 tokens with 8 of 128 experts gives an expert 16 of them and touches nearly all:
what counts is that each stored byte is read once and that 16 tokens are not padded to 64. Four
launches: pairs grouped by expert; gate, up and GeGLU in one; down with the router's weight; the sum
over a token's experts. Rows are gathered on the way in and the projections' outputs scattered on
the way out, so that none is copied. The grid depends on shapes alone. A program takes a tile of
rows of one expert and all of that expert's tokens, 16, 32 or 64 at a time.

Sums over columns are taken in the same steps however many tokens there are, and those over a
token's experts in the order of `index`: a row's bits do not depend on its batch mates.
`gesso.kernels.experts` is the reference; here the products are rounded once, after GeGLU and after
the router's weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from gesso.kernels.gpu.unpack import accumulate, as_matrix, at_row, finish, step_columns, units

# Pairs that a program of the grouping looks at together.
_PAIRS = 1024


@triton.jit
def group_kernel(order, starts, index, pairs, experts, CHUNK: tl.constexpr):
    """One program an expert: where its pairs begin (that of expert `experts` is their end), and
    which they are, in their order."""
    expert = tl.program_id(0)
    place = tl.arange(0, CHUNK)
    before = tl.zeros((CHUNK,), tl.int32)
    for first in range(0, pairs, CHUNK):
        chosen = tl.load(index + first + place, mask=first + place < pairs, other=experts)
        before += (chosen < expert).to(tl.int32)
    start = tl.sum(before)
    tl.store(starts + expert, start)
    for first in range(0, pairs, CHUNK):
        chosen = tl.load(index + first + place, mask=first + place < pairs, other=experts)
        mine = ((chosen == expert) & (first + place < pairs)).to(tl.int32)
        rank = tl.cumsum(mine, 0) - mine
        tl.store(order + start + rank, first + place, mask=mine != 0)
        start += tl.sum(mine)


@triton.jit
def gate_up_kernel(
    h, x, order, starts, codes, scale, whole, k,
    M: tl.constexpr, F: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr,
    WHOLES: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, WIDEST: tl.constexpr,
):  # fmt: skip
    """h (pairs in their order, F): a program makes ROWS / 2 columns of it for one expert."""
    expert = tl.program_id(1).to(tl.int64)
    first = tl.load(starts + expert)
    end = tl.load(starts + expert + 1)
    # The tile's upper half are the gate's rows, the lower the up projection's.
    column = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS) % (ROWS // 2)
    row, real = column + tl.arange(0, ROWS) // (ROWS // 2) * F, column < F
    codes, scale = at_row(codes, scale, expert * (2 * F), M, FORMAT, GROUP)
    whole += expert * WHOLES
    # Instructions no wider than most experts need.
    if end - first <= 16:
        _gate_up(h, x, order, first, end, codes, scale, whole, k, row, real,
                 M, F, FORMAT, GROUP, WHOLES, ROWS, STEP, 16)  # fmt: skip
    else:
        _gate_up(h, x, order, first, end, codes, scale, whole, k, row, real,
                 M, F, FORMAT, GROUP, WHOLES, ROWS, STEP, WIDEST)  # fmt: skip


@triton.jit
def _gate_up(
    h, x, order, first, end, codes, scale, whole, k, row, real,
    M: tl.constexpr, F: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr,
    WHOLES: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    for start in range(first, end, TOKENS):
        place = start + tl.arange(0, TOKENS)
        token = tl.load(order + place, mask=place < end, other=0).to(tl.int64) // k
        acc = _product(
            x, token, place < end, codes, scale, row, real, M, FORMAT, GROUP, ROWS, STEP, TOKENS
        )
        acc = finish(acc, scale, whole, row, real, FORMAT, WHOLES)
        gate, up = tl.split(tl.permute(tl.reshape(acc, (2, ROWS // 2, TOKENS)), (1, 2, 0)))
        # (1 + tanh z) / 2 is the logistic function of 2z; 1.59... = 2 sqrt(2 / pi)
        z = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
        y = gate / (1 + tl.exp(-z)) * up
        column = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
        at = place.to(tl.int64)[:, None] * F + column[None, :]
        keep = (place < end)[:, None] & (column < F)[None, :]
        tl.store(h + at, tl.trans(y).to(h.dtype.element_ty), mask=keep)


@triton.jit
def down_kernel(
    y, h, order, starts, share, codes, scale, whole,
    M: tl.constexpr, F: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr,
    WHOLES: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, WIDEST: tl.constexpr,
):  # fmt: skip
    """y (pairs as in `index`, M), times the router's weight `share`: ROWS columns, one expert."""
    expert = tl.program_id(1).to(tl.int64)
    first = tl.load(starts + expert)
    end = tl.load(starts + expert + 1)
    column = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    codes, scale = at_row(codes, scale, expert * M, F, FORMAT, GROUP)
    whole += expert * WHOLES
    if end - first <= 16:
        _down(y, h, order, first, end, share, codes, scale, whole, column,
              M, F, FORMAT, GROUP, WHOLES, ROWS, STEP, 16)  # fmt: skip
    else:
        _down(y, h, order, first, end, share, codes, scale, whole, column,
              M, F, FORMAT, GROUP, WHOLES, ROWS, STEP, WIDEST)  # fmt: skip


@triton.jit
def _down(
    y, h, order, first, end, share, codes, scale, whole, column,
    M: tl.constexpr, F: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr,
    WHOLES: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    real = column < M
    for start in range(first, end, TOKENS):
        place = start + tl.arange(0, TOKENS)
        pair = tl.load(order + place, mask=place < end, other=0).to(tl.int64)
        acc = _product(
            h, place.to(tl.int64), place < end, codes, scale, column, real,
            F, FORMAT, GROUP, ROWS, STEP, TOKENS,
        )  # fmt: skip
        acc = finish(acc, scale, whole, column, real, FORMAT, WHOLES)
        acc = acc * tl.load(share + pair, mask=place < end, other=0.0)[None, :]
        at = pair[:, None] * M + column[None, :]
        keep = (place < end)[:, None] & real[None, :]
        tl.store(y + at, tl.trans(acc).to(y.dtype.element_ty), mask=keep)


@triton.jit
def _product(
    x, token, there, codes, scale, row, real,
    K: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """W[row] x[token]^T (ROWS, TOKENS) in float32, 0 where a token is not there."""
    acc = tl.zeros((ROWS, TOKENS), tl.float32)
    unit = units(scale, row, real, 0, K, FORMAT, GROUP, STEP)
    for at in range(0, K, STEP):
        column = at + tl.arange(0, STEP)
        keep = there[:, None]
        if K % STEP:
            keep = keep & (column < K)[None, :]
        tile = tl.load(x + token[:, None] * K + column[None, :], mask=keep, other=0.0)
        following = units(scale, row, real, at + STEP, K, FORMAT, GROUP, STEP)
        acc = accumulate(acc, tile, codes, unit, row, real, at, K, FORMAT, STEP)
        unit = following
    return acc


@triton.jit
def combine_kernel(out, y, k, M: tl.constexpr, COLUMNS: tl.constexpr):
    """out[t] = the sum of y[t, 0], ..., y[t, k - 1], in this order and in float32."""
    # Tokens along the first axis: of the others a grid has no more than 65,535.
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    acc = tl.zeros((COLUMNS,), tl.float32)
    for j in range(k):
        acc += tl.load(y + (token * k + j) * M + column, mask=column < M, other=0.0).to(tl.float32)
    tl.store(out + token * M + column, acc.to(out.dtype.element_ty), mask=column < M)


def experts(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    gate_up: Mapping[str, Tensor] | Tensor,
    down: Mapping[str, Tensor] | Tensor,
) -> Tensor:
    """x (T, M), index (T, k) int64, weight (T, k) float32 -> (T, M) in the dtype of x.

    gate_up (E, 2F, M) and down (E, M, F): plain tensors in the dtype of x, or what a format of
    `gesso.quant` stores for them, by name.
    """
    up, back = as_matrix(gate_up, x.dtype), as_matrix(down, x.dtype)
    tokens, k = index.shape
    width, inner, count = up.inputs, back.inputs, len(up.codes)
    assert x.shape == (tokens, width), (x.shape, index.shape, width)
    assert (up.out, back.out, len(back.codes)) == (2 * inner, width, count)
    assert all(t.is_contiguous() for t in (x, index, weight))
    order, starts = group(index, count)
    h = x.new_empty(tokens * k, inner)
    y = x.new_empty(tokens * k, width)
    out = torch.empty_like(x)
    widest = 32 if tokens * k <= 32 * count else 64
    rows = tile_rows(up.form)
    gate_up_kernel[triton.cdiv(inner, rows // 2), count](
        h, x, order, starts, *up[:3], k, width, inner, up.form, up.group, up.wholes,
        rows, step_columns(up.form), widest, **launch_options(up.form, widest),
    )  # fmt: skip
    rows = tile_rows(back.form)
    down_kernel[triton.cdiv(width, rows), count](
        y, h, order, starts, weight, *back[:3], width, inner, back.form, back.group, back.wholes,
        rows, step_columns(back.form), widest, **launch_options(back.form, widest),
    )  # fmt: skip
    combine_kernel[tokens, triton.cdiv(width, 1024)](out, y, k, width, 1024)
    return out


def group(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """index (T, k) int64 -> the order (T * k,) that sorts the pairs by expert, equal ones as they
    come, and where each expert's begin (E + 1,), both int32. Pair i is token i // k."""
    pairs = index.numel()
    order = torch.empty(pairs, dtype=torch.int32, device=index.device)
    starts = torch.empty(count + 1, dtype=torch.int32, device=index.device)
    group_kernel[(count + 1,)](order, starts, index, pairs, count, _PAIRS)
    return order, starts


def tile_rows(form: str) -> int:
    """Rows of weights a program takes: many, for each program reads its tokens again, but no more
    than leave registers for what is unpacked."""
    return 128 if form in ("nvfp4", "int4") else 256


def launch_options(form: str, widest: int) -> dict[str, int]:
    """With few tokens, two programs to a multiprocessor, or three of half the size: as many
    registers as they may have, and stages within its 227 KiB. With many the sums need more."""
    few_bits = form in ("nvfp4", "int4")
    options = dict(num_warps=4 if few_bits else 8, num_stages=3 if form == "plain" else 4)
    return options | dict(maxnreg=168 if few_bits else 128) if widest == 32 else options

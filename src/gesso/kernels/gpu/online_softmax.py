"""Attention's running softmax, which the kernels of canvases and of prompts share.

    out = softmax(q k^T) v        scale 1.0, no softcap, query head j reads kv head j // (H / K)

A kernel walks over tiles of columns and keeps, per query row, the highest score so far, the sum of
weights and the weighted values in float32 (online softmax, arXiv 1805.02867): scores never leave
the processor, memory is linear. The query heads of one kv group are rows of one tile, so that a key
or value is read once for all.

The columns of a tile of rows are shared out over a fixed number of programs, whose float32 partial
results `combine` adds in a fixed order. The number is a function of the shapes of one batch row:
batch mates do not change its bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2E = tl.constexpr(1.4426950408889634)
# The highest score before any: finite, so that the difference of two of them is 0 and not NaN.
LOWEST = tl.constexpr(-1.0e30)

# Programs of one batch row that the columns are shared out for, and columns below which a share
# is not worth the partial result.
_PROGRAMS = 128
_SHARE_COLUMNS = 256


@triton.jit
def fold(query, keys, values, seen, best, total, out, PRECISION: tl.constexpr):
    """Takes one tile of columns (N, D) into the running softmax of the rows (M, D)."""
    scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * _LOG2E  # (M, N)
    scores = tl.where(seen, scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, 1))
    weight = tl.exp2(scores - new_best[:, None])
    decay = tl.exp2(best - new_best)
    total = total * decay + tl.sum(weight, 1)
    out = tl.dot(weight.to(values.dtype), values, out * decay[:, None], input_precision=PRECISION)
    return new_best, total, out


@triton.jit
def finish(
    out, best_out, total_out, split, place, places, in_out, in_row, rows, best, total, acc, dims,
    D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Writes the rows' result, or this program's part of it.

    place: the first position's row of (B, n, H); places (M,): each row's, counted from there.
    """
    if SPLITS == 1:
        # Rows past the last one may have seen nothing.
        acc = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    else:
        place += split.to(tl.int64) * rows
        tl.store(best_out + place + places, best, mask=in_row)
        tl.store(total_out + place + places, total, mask=in_row)
    spot = out + place * D + (places[:, None] * D + dims[None, :])
    tl.store(spot, acc.to(out.dtype.element_ty), mask=in_out)


@triton.jit
def _combine_kernel(
    parts, best_in, total_in, out, rows,
    D: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    in_row = row < rows
    in_out = in_row[:, None] & (dims < D)[None, :]
    best = tl.full((BLOCK_M,), LOWEST, tl.float32)
    for split in range(SPLITS):
        # Past the last row all weights are 1: no 0 / 0.
        best = tl.maximum(best, tl.load(best_in + split * rows + row, mask=in_row, other=0.0))
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for split in range(SPLITS):
        place = split * rows + row
        weight = tl.exp2(tl.load(best_in + place, mask=in_row, other=0.0) - best)
        total += weight * tl.load(total_in + place, mask=in_row, other=1.0)
        part = tl.load(parts + place[:, None] * D + dims[None, :], mask=in_out, other=0.0)
        acc += weight[:, None] * part
    value = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + row[:, None] * D + dims[None, :], value, mask=in_out)


class Tiles(NamedTuple):
    rows: int
    columns: int
    warps: int
    stages: int


class Parts(NamedTuple):
    """What the programs of one row of tiles write: float32, or the result itself when alone."""

    out: Tensor
    best: Tensor
    total: Tensor


def check_layout(query: Tensor, keys: Tensor, values: Tensor) -> None:
    assert keys.shape == values.shape
    assert keys.stride() == values.stride()
    assert query.stride(3) == keys.stride(3) == 1
    assert query.shape[3] == keys.shape[3]
    assert query.shape[0] == keys.shape[0]
    assert keys.dtype == values.dtype


def padded(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


def precision(dtype: torch.dtype) -> str:
    return "ieee" if dtype == torch.float32 else "tf32"


def choose_tiles(rows: int, dim: int, dtype: torch.dtype) -> Tiles:
    """The sum of values takes rows x dim float32 registers: 128 a thread at most."""
    if dtype == torch.float32:
        chosen = Tiles(rows=32 if padded(dim) <= 128 else 16, columns=16, warps=4, stages=1)
    elif padded(dim) <= 128:
        chosen = Tiles(rows=64, columns=64, warps=4, stages=3)
    elif padded(dim) <= 256:
        chosen = Tiles(rows=128, columns=32, warps=8, stages=3)
    else:
        chosen = Tiles(rows=64, columns=32, warps=8, stages=2)
    return chosen._replace(rows=min(chosen.rows, padded(rows)))


def choose_splits(programs: int, columns: int) -> int:
    """From the shapes of one batch row, so that batch mates do not change a row's bits; a power of
    two, for every number is a kernel of its own, to be compiled when it is first met."""
    wanted = max(1, min(_PROGRAMS // programs, columns // _SHARE_COLUMNS))
    return 1 << wanted.bit_length() - 1


def new_parts(out: Tensor, splits: int, rows: int) -> Parts:
    if splits == 1:
        return Parts(out, out, out)
    size = (splits, rows)
    wide = torch.float32
    return Parts(
        out.new_empty(splits, *out.shape, dtype=wide),
        out.new_empty(size, dtype=wide),
        out.new_empty(size, dtype=wide),
    )


def combine(parts: Parts, out: Tensor, dim: int, splits: int) -> Tensor:
    if splits > 1:
        rows, block = parts.best.shape[1], 4
        _combine_kernel[(triton.cdiv(rows, block),)](
            *parts, out, rows, D=dim, SPLITS=splits, BLOCK_M=block, BLOCK_D=padded(dim),
            num_warps=4,
        )  # fmt: skip
    return out

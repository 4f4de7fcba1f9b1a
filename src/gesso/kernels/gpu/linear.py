"""Linear maps with stored weights: y (T, out) = x (T, in) W^T.

What is read is what is stored (`unpack.py`); products of few bits' codes and bfloat16 tokens are
taken in bfloat16 and added in float32. Each sum is taken in the same steps whatever the number of
tokens. `gesso.quant.modules.QuantLinear` is the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from gesso.kernels.gpu.unpack import accumulate, as_matrix, at_row, finish, step_columns, units

# Programs that keep a large device's multiprocessors busy.
_PROGRAMS = 128


@triton.jit
def linear_kernel(
    y, x, codes, scale, whole, tokens, out,
    K: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr, WHOLES: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """ROWS outputs of TOKENS tokens a program."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    real = first + row < out
    codes, scale = at_row(codes, scale, first, K, FORMAT, GROUP)
    if WHOLES > 1:
        whole += first
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    there = token < tokens
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
    acc = finish(acc, scale, whole, row, real, FORMAT, WHOLES)
    at = token[:, None] * out + (first + row)[None, :]
    keep = there[:, None] & real[None, :]
    tl.store(y + at, tl.trans(acc).to(y.dtype.element_ty), mask=keep)


class Tiles(NamedTuple):
    rows: int
    tokens: int
    warps: int


def linear(x: Tensor, stored: Mapping[str, Tensor] | Tensor) -> Tensor:
    """x (..., in) contiguous -> (..., out) in the dtype of x.

    stored (out, in): a plain tensor in the dtype of x, or what a format of `gesso.quant` stores for
    it, by name.
    """
    matrix = as_matrix(stored, x.dtype)
    assert x.is_contiguous()
    assert x.shape[-1] == matrix.inputs, (x.shape, matrix.inputs)
    assert matrix.out * matrix.inputs < 2**31
    rows = x.view(-1, matrix.inputs)
    y = x.new_empty(len(rows), matrix.out)
    tiles = choose_tiles(len(rows), matrix.out)
    linear_kernel[triton.cdiv(matrix.out, tiles.rows), triton.cdiv(len(rows), tiles.tokens)](
        y, rows, *matrix[:3], len(rows), matrix.out, matrix.inputs, matrix.form, matrix.group,
        matrix.wholes, tiles.rows, tiles.tokens, step_columns(matrix.form),
        num_warps=tiles.warps, num_stages=3,
    )  # fmt: skip
    return y.view(*x.shape[:-1], matrix.out)


def choose_tiles(tokens: int, out: int) -> Tiles:
    """The largest that still give every multiprocessor one."""
    for tiles in (Tiles(128, 128, 8), Tiles(128, 64, 8)):
        if triton.cdiv(out, tiles.rows) * triton.cdiv(tokens, tiles.tokens) >= _PROGRAMS:
            return tiles
    return Tiles(64, 64, 4)

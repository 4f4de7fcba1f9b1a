"""Linear maps with stored weights: y (T, out) = x (T, in) W^T.

What is read is what is stored (`unpack.py`); products of few bits' codes and bfloat16 tokens are
taken in bfloat16 and added in float32. FP8 weights may also meet tokens in e4m3, a scale for each,
found as the product begins: half the multiplications' time, and both scales wait for the end. Each
sum is taken in the same steps whatever the number of tokens. `gesso.quant.modules.QuantLinear` is
the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gesso.kernels.gpu.unpack import accumulate, as_matrix, at_row, finish, step_columns, units

# Programs that keep a large device's multiprocessors busy.
_PROGRAMS = 128
_E4M3_MAX = tl.constexpr(448.0)


@triton.jit
def linear_kernel(
    y, x, share, codes, scale, whole, tokens, out,
    K: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr, WHOLES: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """ROWS outputs of TOKENS tokens a program; share (T,) are the scales of tokens in e4m3."""
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
    if FORMAT == "fp8_both":
        acc = acc * tl.load(share + token, mask=there, other=0.0)[None, :]
    at = token[:, None] * out + (first + row)[None, :]
    keep = there[:, None] & real[None, :]
    tl.store(y + at, tl.trans(acc).to(y.dtype.element_ty), mask=keep)


@triton.jit
def to_e4m3_kernel(q, scale, x, K: tl.constexpr, COLUMNS: tl.constexpr):
    """One program a token: its largest magnitude becomes 448."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    row = tl.load(x + token * K + column, mask=column < K, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(row), 0)
    unit = tl.where(largest > 0, largest / _E4M3_MAX, 1.0)
    tl.store(scale + token, unit)
    tl.store(q + token * K + column, (row / unit).to(q.dtype.element_ty), mask=column < K)


class Tiles(NamedTuple):
    rows: int
    tokens: int
    warps: int


def linear(
    x: Tensor, stored: Mapping[str, Tensor] | Tensor, *, round_tokens: bool = False
) -> Tensor:
    """x (..., in) contiguous -> (..., out) in the dtype of x.

    stored (out, in): a plain tensor in the dtype of x, or what a format of `gesso.quant` stores for
    it, by name. `round_tokens` (FP8 only) takes x to e4m3 as well, with a scale for each token.
    """
    matrix = as_matrix(stored)
    form, share = matrix.form, matrix.scale
    assert x.is_contiguous()
    assert x.shape[-1] == matrix.inputs, (x.shape, matrix.inputs)
    assert matrix.out * matrix.inputs < 2**31
    rows = x.view(-1, matrix.inputs)
    y = x.new_empty(len(rows), matrix.out)
    if round_tokens:
        assert form == "fp8", form
        assert not isinstance(stored, Tensor)
        form, matrix = "fp8_both", matrix._replace(codes=stored["weight"])
        rows, share = to_e4m3(rows)
    tiles = choose_tiles(len(rows), matrix.out)
    linear_kernel[triton.cdiv(matrix.out, tiles.rows), triton.cdiv(len(rows), tiles.tokens)](
        y, rows, share, *matrix[:3], len(rows), matrix.out, matrix.inputs, form, matrix.group,
        matrix.wholes, tiles.rows, tiles.tokens, step_columns(form), num_warps=tiles.warps,
        num_stages=3,
    )  # fmt: skip
    return y.view(*x.shape[:-1], matrix.out)


def to_e4m3(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (T, in) -> e4m3 of the same shape, and the float32 scale (T,) of each row."""
    q = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(len(x), dtype=torch.float32, device=x.device)
    to_e4m3_kernel[(len(x),)](q, scale, x, x.shape[1], triton.next_power_of_2(x.shape[1]))
    return q, scale


def choose_tiles(tokens: int, out: int) -> Tiles:
    """The largest that still give every multiprocessor one."""
    for tiles in (Tiles(128, 128, 8), Tiles(128, 64, 8)):
        if triton.cdiv(out, tiles.rows) * triton.cdiv(tokens, tiles.tokens) >= _PROGRAMS:
            return tiles
    return Tiles(64, 64, 4)

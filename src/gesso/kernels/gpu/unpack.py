"""Products with stored weights: acc (R, T) += W (R, K) x^T (K, T), W made wide in registers.

A tensor core instruction takes the weights' rows as its wide operand and the tokens as its narrow
one, so that 16 tokens are not padded to 64. What is read from memory is what is stored:

    plain   weight (..., out, in) in the dtype of x
    fp8     weight e4m3; scale (..., out, 1) bf16, which waits for the end of the sum
    nvfp4   packed, two e2m1 codes a byte; scale e4m3 a group of 16; whole, which waits
    int4    packed, two codes a byte raised by 8; scale bf16 a group

Codes are read as words of four or eight. Slot s of a tile's words is an operand of its own: every
fourth or eighth column, which meets the same columns of x. Nothing has to change hands between
threads for that, and both halves of a word are shifted and masked at once. `gesso.quant.formats`
defines what the codes stand for; a wide weight has the bits that `dequantize` gives, but for the
scales that wait, which are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# The halves of a word, and their sign bits. Shifts drag signs along: masks come last.
_LOW = tl.constexpr(0xFFFF)
_SIGNS = tl.constexpr(-0x7FFF8000)
# A small float's exponent moved into bfloat16's bits counts from another bias: e4m3 is too small by
# 2^120 then, e2m1 by 2^126. Of the latter a scale takes 2^118, for more might overflow, and the
# end of the sum the rest.
_E4M3_LIFT = tl.constexpr(2.0**120)
_UNIT_LIFT = tl.constexpr(2.0**118)
_WHOLE_LIFT = tl.constexpr(2.0**8)


@triton.jit
def accumulate(
    acc, x, weight, unit, row, real, k, K: tl.constexpr, FORMAT: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """acc (R, T) + W[row, k : k + STEP] x^T, where x is (T, STEP) and 0 past column K.

    weight points at words (plain: at values) of a first row, from where row (R,) int32 counts: one
    address of 64 bits a program leaves registers to the product. real (R,) says which rows there
    are, and unit (R, groups) is what `units` gives for k.
    """
    if FORMAT == "plain":
        w = _tile(weight, row, real, k, K, STEP)
        acc = tl.dot(w, tl.trans(x), acc, input_precision="ieee")
    elif FORMAT == "fp8":
        words = _tile(weight, row, real, k // 4, K // 4, STEP // 4)
        x0, x1, x2, x3 = _quarters(x, STEP)
        lift = tl.full((1, 1), _E4M3_LIFT, x.dtype)
        w0, w2 = _halves(((words << 8) & _SIGNS) | ((words << 4) & 0x07F007F0))
        w1, w3 = _halves((words & _SIGNS) | ((words >> 4) & 0x07F007F0))
        acc = tl.dot(w0.to(x.dtype) * lift, tl.trans(x0), acc, input_precision="ieee")
        acc = tl.dot(w1.to(x.dtype) * lift, tl.trans(x1), acc, input_precision="ieee")
        acc = tl.dot(w2.to(x.dtype) * lift, tl.trans(x2), acc, input_precision="ieee")
        acc = tl.dot(w3.to(x.dtype) * lift, tl.trans(x3), acc, input_precision="ieee")
    else:
        words = _tile(weight, row, real, k // 8, K // 8, STEP // 8)
        even, odd = tl.split(tl.reshape(x, (x.shape[0], STEP // 2, 2)))
        x0, x2, x4, x6 = _quarters(even, STEP // 2)
        x1, x3, x5, x7 = _quarters(odd, STEP // 2)
        scale = _spread(unit.to(x.dtype), STEP // 8)
        if FORMAT == "nvfp4":
            scale = scale * tl.full((1, 1), _UNIT_LIFT, x.dtype)
        acc = _two_slots(acc, x0, x4, words, scale, 0, FORMAT)
        acc = _two_slots(acc, x1, x5, words, scale, 1, FORMAT)
        acc = _two_slots(acc, x2, x6, words, scale, 2, FORMAT)
        acc = _two_slots(acc, x3, x7, words, scale, 3, FORMAT)
    return acc


@triton.jit
def units(
    scale, row, real, k,
    K: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """The scales (R, STEP / GROUP) of the groups in columns k to k + STEP; nothing of formats
    without groups. Loops ask for those of the next step: they are too small to be copied to shared
    memory ahead, and waiting for them would cost more than the product."""
    if FORMAT == "nvfp4" or FORMAT == "int4":
        group = k // GROUP + tl.arange(0, STEP // GROUP)
        keep = real[:, None] & (group < K // GROUP)[None, :]
        at = row[:, None] * (K // GROUP) + group[None, :]
        unit = tl.load(scale + at, mask=keep, other=0.0)
    else:
        unit = tl.zeros((1, 1), tl.float32)
    return unit


@triton.jit
def at_row(weight, scale, row, K: tl.constexpr, FORMAT: tl.constexpr, GROUP: tl.constexpr):
    """Where the codes of a `row` (int64) begin, and its scales."""
    if FORMAT == "plain":
        weight += row * K
    elif FORMAT == "fp8":
        weight += row * (K // 4)
        scale += row
    else:
        weight += row * (K // 8)
        scale += row * (K // GROUP)
    return weight, scale


@triton.jit
def finish(acc, scale, whole, row, real, FORMAT: tl.constexpr, WHOLES: tl.constexpr):
    """The scales that wait: acc (R, T) times those of its rows, or that of the matrix."""
    if FORMAT == "fp8":
        acc = acc * tl.load(scale + row, mask=real, other=0.0).to(tl.float32)[:, None]
    if FORMAT == "nvfp4":
        if WHOLES == 1:
            acc = acc * (tl.load(whole) * _WHOLE_LIFT)
        else:
            acc = acc * (tl.load(whole + row, mask=real, other=0.0) * _WHOLE_LIFT)[:, None]
    return acc


@triton.jit
def _tile(pointer, row, real, column, K: tl.constexpr, WIDTH: tl.constexpr):
    columns = column + tl.arange(0, WIDTH)
    keep = real[:, None]
    if K % WIDTH:
        keep = keep & (columns < K)[None, :]
    return tl.load(pointer + row[:, None] * K + columns[None, :], mask=keep, other=0.0)


@triton.jit
def _quarters(x, WIDTH: tl.constexpr):
    """x (T, WIDTH) -> columns 0, 4, 8, ... and 1, 5, ... and 2, 6, ... and 3, 7, ..."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], WIDTH // 4, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _halves(words):
    """Words of two bfloat16 -> the lower, the upper."""
    low = (words & _LOW).to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = ((words >> 16) & _LOW).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return low, high


@triton.jit
def _two_slots(acc, x_low, x_high, words, scale, SLOT: tl.constexpr, FORMAT: tl.constexpr):
    """acc + the products of slots SLOT and SLOT + 4 of each word."""
    if FORMAT == "nvfp4":
        # Sign and three bits from the top of a half's nibble: 15 and 8 to 6.
        size = words << (6 - 4 * SLOT) if SLOT < 2 else words >> (4 * SLOT - 6)
        low, high = _halves(((words << (12 - 4 * SLOT)) & _SIGNS) | (size & 0x01C001C0))
    else:
        # As the last bits of 128, whose unit is 1.
        low, high = _halves(((words >> (4 * SLOT)) & 0x000F000F) | 0x43004300)
        low, high = low.to(x_low.dtype) - 136.0, high.to(x_low.dtype) - 136.0
    low = low.to(x_low.dtype) * scale
    high = high.to(x_low.dtype) * scale
    acc = tl.dot(low, tl.trans(x_low), acc, input_precision="ieee")
    return tl.dot(high, tl.trans(x_high), acc, input_precision="ieee")


@triton.jit
def _spread(unit, WIDTH: tl.constexpr):
    """unit (R, G) -> (R, WIDTH), each repeated for the words of its group."""
    R: tl.constexpr = unit.shape[0]
    G: tl.constexpr = unit.shape[1]
    if G < WIDTH:
        unit = tl.reshape(tl.broadcast_to(unit[:, :, None], (R, G, WIDTH // G)), (R, WIDTH))
    return unit


class Matrix(NamedTuple):
    """A weight (..., out, in), or a stack of them, as kernels take it; groups are of `group`
    inputs, a matrix has `wholes` second-level scales (one, or one a row, where projections with
    scales of their own were stacked), and what a format lacks is stood for by its codes."""

    codes: Tensor  # words (..., out, in / 4 or in / 8) int32, or the plain weight
    scale: Tensor
    whole: Tensor
    form: str
    out: int
    inputs: int
    group: int
    wholes: int = 1


def step_columns(form: str) -> int:
    """Columns that one step takes: a slot of a word has no less than the 16 that a tensor core
    multiplies at once, and registers for more are missing."""
    return 64 if form in ("plain", "fp8") else 128


def as_matrix(stored: Mapping[str, Tensor] | Tensor, dtype: torch.dtype) -> Matrix:
    """What is stored, by the names of its tensors; a plain tensor stands for itself.

    ValueError: the product's dtype cannot hold what codes are lifted by.
    """
    if isinstance(stored, Tensor):
        assert stored.is_contiguous()
        return Matrix(stored, stored, stored, "plain", stored.shape[-2], stored.shape[-1], 1)
    form = "fp8" if "weight" in stored else "nvfp4" if "whole" in stored else "int4"
    if dtype == torch.float16 and form != "int4":
        raise ValueError(
            f"dtype: got float16, which kernels for weights in {form} do not compute in; "
            "choose bfloat16 or float32"
        )
    codes, scale = stored["weight" if form == "fp8" else "packed"], stored["scale"]
    assert all(tensor.is_contiguous() for tensor in stored.values())
    inputs = codes.shape[-1] * (1 if form == "fp8" else 2)
    group = inputs // scale.shape[-1]
    assert form == "fp8" or (group in (16, 32, 64, 128)), group
    assert inputs % (4 if form == "fp8" else 8) == 0, inputs
    words = codes.view(torch.uint8).view(torch.int32)
    whole = stored.get("whole", scale)
    wholes = whole.shape[-2] if form == "nvfp4" else 1
    return Matrix(words, scale, whole, form, codes.shape[-2], inputs, group, wholes)

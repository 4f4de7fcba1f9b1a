"""Number formats of weights: what is stored for a matrix, and what that stands for.

Weights are (..., out, in), and every matrix of a stack is treated by itself. What is stored is a
few named tensors; `dequantize` of them is the definition that kernels are held against. Model-spec
§9 has the published layouts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

E4M3_MAX = 448.0
# A group of fewer inputs would spend more on its scale than it saves.
_SMALLEST = 16
# Magnitudes of e2m1 by their three bits; the fourth is the sign.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Format(Protocol):
    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """(..., out, in) -> what is stored, by name. ValueError for a shape that does not fit."""
        ...

    def dequantize(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """(..., out, in), computed in float32 and rounded once."""
        ...


@dataclass(frozen=True)
class FP8:
    """e4m3, with one bf16 scale an output channel: weight (..., out, in), scale (..., out, 1)."""

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        wide = weight.float()
        scale = _divisor(wide.abs().amax(-1, keepdim=True) / E4M3_MAX).bfloat16()
        return dict(weight=_e4m3(wide / scale.float()), scale=scale)

    def dequantize(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        return (stored["weight"].float() * stored["scale"].float()).to(dtype)


@dataclass(frozen=True)
class NVFP4:
    """e2m1, with an e4m3 scale for every 16 inputs and a float32 one for the matrix.

    packed (..., out, in / 2) uint8, the even column in the low half; scale (..., out, in / 16);
    whole (..., 1, 1): a value is e2m1 * scale * whole. Where rows of several matrices are stacked
    to one, `whole` may be (..., out, 1).
    """

    group: int = 16

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        wide = _grouped(weight, self.group).float()  # (..., out, in / 16, 16)
        largest = wide.abs().amax(-1)
        whole = largest.amax((-2, -1), keepdim=True) / (E2M1[-1] * E4M3_MAX)
        # Some files hold its reciprocal: this is the nearest float32 that the way there and back
        # does not change.
        whole = _divisor(whole.reciprocal().reciprocal())
        scale = _e4m3(largest / E2M1[-1] / whole)
        # A group may be so small that its scale is 0: so are then its values.
        unit = _divisor(scale.float() * whole)[..., None]
        codes = _e2m1_codes(wide / unit).flatten(-2)
        return dict(packed=_pack(codes), scale=scale, whole=whole)

    def dequantize(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        codes = _unpack(stored["packed"])
        values = torch.tensor(E2M1, device=codes.device)[(codes & 7).int()]
        values = torch.where(codes > 7, -values, values)
        unit = stored["scale"].float() * stored["whole"]
        grouped = values.unflatten(-1, (-1, self.group)) * unit[..., None]
        return grouped.flatten(-2).to(dtype)


@dataclass(frozen=True)
class INT4:
    """-8 to 7, with a bf16 scale for every so many inputs.

    packed (..., out, in / 2) uint8 of the values raised by 8, scale (..., out, in / group). A
    group is as large as `largest` or, where that does not divide the inputs, its largest part
    that does.
    """

    largest: int = 128

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        group = max(math.gcd(weight.shape[-1], self.largest), _SMALLEST)
        wide = _grouped(weight, group).float()
        scale = _divisor(wide.abs().amax(-1) / 7).bfloat16()
        values = (wide / scale.float()[..., None]).round().clamp(-8, 7) + 8
        return dict(packed=_pack(values.to(torch.uint8).flatten(-2)), scale=scale)

    def dequantize(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        values, scale = _unpack(stored["packed"]).float() - 8, stored["scale"].float()
        grouped = values.unflatten(-1, (scale.shape[-1], -1)) * scale[..., None]
        return grouped.flatten(-2).to(dtype)


def _grouped(weight: Tensor, group: int) -> Tensor:
    if weight.shape[-1] % group:
        raise ValueError(
            f"a weight of {weight.shape[-1]} inputs does not fall into groups of {group}; "
            "choose fp8, which has none"
        )
    return weight.unflatten(-1, (-1, group))


def _divisor(scale: Tensor) -> Tensor:
    """1 where a scale is 0: what it scales is 0 too."""
    return torch.where(scale == 0, 1.0, scale)


def _e4m3(values: Tensor) -> Tensor:
    """Rounded to nearest; past the largest value it would be NaN."""
    return values.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _e2m1_codes(values: Tensor) -> Tensor:
    """The nearest value's four bits, as uint8; halfway between two, the one with an even code."""
    magnitudes = torch.tensor(E2M1, device=values.device)
    between = (magnitudes[1:] + magnitudes[:-1]) / 2
    size = values.abs()
    # Codes are even below every second boundary, which therefore belongs to the lower one.
    code = torch.bucketize(size, between)
    tied = (size == between[code.clamp(max=len(between) - 1)]) & (code % 2 == 1)
    return (code + tied.to(code.dtype) + 8 * values.signbit()).to(torch.uint8)


def _pack(codes: Tensor) -> Tensor:
    low, high = codes[..., ::2], codes[..., 1::2]
    return low | high << 4


def _unpack(packed: Tensor) -> Tensor:
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)

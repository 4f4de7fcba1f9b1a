"""Number formats of weights: what is stored for a matrix, and what that stands for.

Weights are (..., out, in), and every matrix of a stack is treated by itself. What is stored is a
few named tensors; `dequantize` of them is the definition that kernels are held against. Model-spec
§9 has the published layouts.

A layout says what a scale means, not how it is chosen. Here it is the one of a few that leaves the
least squared error in what it scales: 22% less than mapping the largest weight to the largest value
does in NVFP4, 19 to 24% less in INT4, 4 to 15% less in FP8, where it matters less the longer a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gesso.quant.feedback import round_with_feedback

E4M3_MAX = 448.0
# A group of fewer inputs would spend more on its scale than it saves.
SMALLEST_GROUP = 16
# Magnitudes of e2m1 by their three bits; the fourth is the sign.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

# Which scales are tried: so many times the one that maps the largest weight to the largest value.
# Below 1 the largest is cut, and the others lie closer; above 1 it falls on a smaller value of the
# format, so that the others meet other ones.
_FP8 = (1.0, 448 / 256, 448 / 288, 448 / 240)
_NVFP4 = (1.0, 6 / 4, 0.925)
_INT4 = (1.0, 7 / 8, 4 / 5)


class Format(Protocol):
    def quantize(self, weight: Tensor, moment: Tensor | None = None) -> dict[str, Tensor]:
        """(..., out, in) -> what is stored, by name. ValueError for a shape that does not fit.

        moment: of the inputs (in, in), for a matrix whose outputs are to change little, rather
        than its weights (quant/feedback.py).
        """
        ...

    def dequantize(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """(..., out, in), computed in float32 and rounded once."""
        ...


@dataclass(frozen=True)
class FP8:
    """e4m3, with one bf16 scale an output channel: weight (..., out, in), scale (..., out, 1)."""

    def quantize(self, weight: Tensor, moment: Tensor | None = None) -> dict[str, Tensor]:
        def nearest(x: Tensor) -> Tensor:
            return _e4m3(x).float()

        wide = weight.float()
        unit = wide.abs().amax(-1) / E4M3_MAX
        scale = _best(wide, [_divisor(unit * n).bfloat16() for n in _FP8], nearest)[..., None]
        return dict(weight=_e4m3(_values(wide, scale.float(), nearest, moment)), scale=scale)

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

    def quantize(self, weight: Tensor, moment: Tensor | None = None) -> dict[str, Tensor]:
        wide = _grouped(weight, self.group).float()  # (..., out, in / 16, 16)
        largest = wide.abs().amax(-1)
        whole = largest.amax((-2, -1), keepdim=True) / (E2M1[-1] * E4M3_MAX)
        # Some files hold its reciprocal: this is the nearest float32 that the way there and back
        # does not change.
        whole = _divisor(whole.reciprocal().reciprocal())
        wide = wide / whole[..., None]
        unit = largest / whole / E2M1[-1]
        scale = _best(wide, [_e4m3(unit * n).float() for n in _NVFP4], _e2m1)
        # A group may be so small that its scale is 0: so are then its values.
        units = _divisor(scale)[..., None].expand_as(wide).flatten(-2)
        values = _values(wide.flatten(-2), units, _e2m1, moment)
        return dict(packed=_pack(_e2m1_codes(values)), scale=_e4m3(scale), whole=whole)

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

    def quantize(self, weight: Tensor, moment: Tensor | None = None) -> dict[str, Tensor]:
        group = max(math.gcd(weight.shape[-1], self.largest), SMALLEST_GROUP)
        wide = _grouped(weight, group).float()
        unit = wide.abs().amax(-1) / 7
        scale = _best(wide, [_divisor(unit * n).bfloat16() for n in _INT4], _int4)
        units = scale.float()[..., None].expand_as(wide).flatten(-2)
        values = _values(wide.flatten(-2), units, _int4, moment) + 8
        return dict(packed=_pack(values.to(torch.uint8)), scale=scale)

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


def _best(wide: Tensor, scales: Sequence[Tensor], nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """Of the scales (..., groups), group by group, the one that leaves the least squared error in
    wide (..., groups, n); nearest: to values of the format."""
    best, least = scales[0], torch.full_like(scales[0], math.inf, dtype=torch.float32)
    for scale in scales:
        unit = _divisor(scale.float())[..., None]
        error = (nearest(wide / unit) * unit).sub_(wide).square_().sum(-1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


def _values(
    wide: Tensor, unit: Tensor, nearest: Callable[[Tensor], Tensor], moment: Tensor | None
) -> Tensor:
    if moment is None:
        return nearest(wide / unit)
    return round_with_feedback(wide, unit, nearest, moment)


def _divisor(scale: Tensor) -> Tensor:
    """1 where a scale is 0: what it scales is 0 too."""
    return torch.where(scale == 0, 1.0, scale)


def _e4m3(values: Tensor) -> Tensor:
    """Rounded to nearest; past the largest value it would be NaN."""
    return values.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _int4(values: Tensor) -> Tensor:
    return values.round().clamp(-8, 7)


def _e2m1(values: Tensor) -> Tensor:
    """The nearest value of the format; halfway between two, the one with an even code."""
    size = values.abs().clamp(max=E2M1[-1])
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return ((size / step).round() * step).copysign(values)


def _e2m1_codes(values: Tensor) -> Tensor:
    """The four bits, as uint8, of values of the format."""
    size = values.abs()
    code = torch.where(size <= 2, 2 * size, torch.where(size <= 4, size + 2, size / 2 + 4))
    return (code + 8 * values.signbit()).to(torch.uint8)


def _pack(codes: Tensor) -> Tensor:
    low, high = codes[..., ::2], codes[..., 1::2]
    return low | high << 4


def _unpack(packed: Tensor) -> Tensor:
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)

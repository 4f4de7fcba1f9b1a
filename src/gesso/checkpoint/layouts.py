"""How a matrix in few bits lies in a published file (model-spec §9).

A layout is a list of tensors: what each is called in the file, what it is called in `quant`, and
what changes on the way between the two. Every tensor can be read by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gesso.quant import FP8, INT4, NVFP4, Format
from gesso.quant.formats import SMALLEST_GROUP

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """One tensor of a module: `suffix` ends its name in the file, `name` is its name here."""

    suffix: str
    name: str
    read: Change = lambda tensor: tensor
    write: Change = lambda tensor: tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """name: the format's, for people. parts: the first, which has this `dtype`, tells the layout.

    spare: suffixes of tensors that a reader of weights can do without. weights: the entry of that
    name in a group of compressed-tensors' config; inputs: that of its activations; storage: what
    it calls the whole.
    """

    name: str
    form: Format
    dtype: torch.dtype
    parts: tuple[Part, ...]
    spare: tuple[str, ...] = ()
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None = None
    storage: str

    def fitted(self, *, inputs: int, groups: int) -> Layout:
        """With the group size of a matrix that has so many inputs and so many scales a row.

        Where a group is larger than any that kernels take, each of its parts of up to 128 inputs
        has the group's scale in memory. ValueError for groups of which 16 is no part.
        """
        if not isinstance(self.form, INT4):
            return self
        size = max(inputs // max(groups, 1), 1)
        held = math.gcd(size, INT4.largest)
        if held < SMALLEST_GROUP:
            raise ValueError(
                f"has {groups} scales for {inputs} inputs; groups of {SMALLEST_GROUP} inputs or a "
                "multiple of that are read"
            )
        packed, scale = self.parts
        if (times := size // held) > 1:
            scale = replace(
                scale,
                read=lambda tensor: tensor.repeat_interleave(times, -1),
                write=lambda tensor: tensor[..., ::times],
            )
        weights = {**self.weights, "group_size": size}
        return replace(self, form=INT4(held), parts=(packed, scale), weights=weights)

    def write(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A matrix's tensors, (out, ...), by their suffixes in the file."""
        written = {part.suffix: part.write(stored[part.name]) for part in self.parts}
        if "weight_shape" in self.spare:
            out, packed = stored["packed"].shape
            written["weight_shape"] = torch.tensor([out, 2 * packed])
        return written


def _reciprocal(tensor: Tensor) -> Tensor:
    """Of the one number that stands for a matrix, whatever shape it has."""
    return tensor.flatten()[:1].reciprocal()


_STATIC = dict(symmetric=True, dynamic=False)

# A reader that rounds activations too does it by the token; nothing is stored for that.
CT_FP8 = Layout(
    name="fp8",
    form=FP8(),
    dtype=torch.float8_e4m3fn,
    parts=(Part("weight", "weight"), Part("weight_scale", "scale")),
    weights=dict(num_bits=8, type="float", strategy="channel", **_STATIC),
    inputs=dict(num_bits=8, type="float", strategy="token", symmetric=True, dynamic=True),
    storage="float-quantized",
)
# The file holds what the scales were multiplied with; ModelOpt's, what they are to be.
CT_NVFP4 = Layout(
    name="nvfp4",
    form=NVFP4(),
    dtype=torch.uint8,
    parts=(
        Part("weight_packed", "packed"),
        Part("weight_scale", "scale"),
        Part("weight_global_scale", "whole", _reciprocal, _reciprocal),
    ),
    spare=("input_global_scale",),
    weights=dict(
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=16,
        scale_dtype="torch.float8_e4m3fn",
        **_STATIC,
    ),
    storage="nvfp4-pack-quantized",
)
CT_INT4 = Layout(
    name="int4",
    form=INT4(),
    dtype=torch.int32,
    parts=(
        # Eight values a word, the first in its lowest bits: the same bytes in another dtype.
        Part(
            "weight_packed",
            "packed",
            read=lambda tensor: tensor.view(torch.uint8),
            write=lambda tensor: tensor.view(torch.int32),
        ),
        Part("weight_scale", "scale"),
    ),
    spare=("weight_shape",),
    weights=dict(num_bits=4, type="int", strategy="group", **_STATIC),
    storage="pack-quantized",
)
MODELOPT_NVFP4 = Layout(
    name="nvfp4",
    form=NVFP4(),
    dtype=torch.uint8,
    parts=(
        Part("weight", "packed"),
        Part("weight_scale", "scale"),
        Part("weight_scale_2", "whole", write=lambda tensor: tensor.flatten()[0]),
    ),
    spare=("input_scale",),
    weights=CT_NVFP4.weights,
    storage="nvfp4",
)

"""Rotary position embedding, rotate-half layout: element j turns with element j + D/2.

Angles are computed in float32 (in float64 for float64 activations); cos and sin are cast to the
activations' dtype before they multiply (model-spec §3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gesso.config import RopeConfig


class Rotation(NamedTuple):
    """cos and sin of every angle, each (B, n, D/2), B possibly 1."""

    cos: Tensor
    sin: Tensor


def inverse_frequencies(rope: RopeConfig, head_dim: int, device: torch.device) -> Tensor:
    """(D/2,) float32. Past the turning share they are exactly 0: those pairs pass through.

    The exponent's denominator is the whole head dimension also when only a part of it turns
    (trap 5).
    """
    turning = int(rope.partial * head_dim // 2)
    exponent = torch.arange(0, 2 * turning, 2, dtype=torch.float32, device=device) / head_dim
    frequencies = torch.zeros(head_dim // 2, dtype=torch.float32, device=device)
    frequencies[:turning] = 1.0 / (rope.theta**exponent)
    return frequencies / rope.scaling


def rotation(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> Rotation:
    """Angles of positions (B, n) under frequencies (D/2,)."""
    wide = torch.promote_types(dtype, torch.float32)
    angles = positions.to(wide)[..., None] * frequencies  # (B, n, D/2)
    return Rotation(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """x (B, n, H, D) turned by its position's angles."""
    cos, sin = turn.cos[:, :, None], turn.sin[:, :, None]  # (B, n, 1, D/2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

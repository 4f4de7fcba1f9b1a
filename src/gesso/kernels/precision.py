"""The precision of what is computed more finely than it is stored: norms, logits, losses."""

from __future__ import annotations

from torch import Tensor, float64


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32; float64 stays, for references in double precision."""
    return x if x.dtype == float64 else x.float()

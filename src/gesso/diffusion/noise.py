"""The forward process: each token is kept with probability 1 - t, else drawn anew.

A redrawn token is uniform over the whole vocabulary, special tokens included; there is no mask
token (facts of the published objective; model-spec trap 21).
"""

from __future__ import annotations

import torch
from torch import Tensor


def corrupt(tokens: Tensor, level: Tensor, *, uniform: Tensor, noise: Tensor) -> Tensor:
    """tokens (B, L) int64 at noise levels in [0, 1], (B,) or one a position (B, L) -> (B, L).

    uniform (B, L) in [0, 1) decides who is redrawn, noise (B, L) int64 as what; a redraw may give
    the same token again. At level 0 it is the identity, at level 1 it is the noise.
    """
    return torch.where(uniform < level.view(len(tokens), -1), noise, tokens)


def ramp(middle: Tensor, width: Tensor, *, length: int) -> Tensor:
    """Noise levels (B, length) that rise from 0 to 1 along the canvas.

    middle (B,) in [0, 1] runs from all noise to all clean, width (B,) is the rise's share of the
    canvas. A sampler that grows an answer from its beginning meets such canvases far more often
    than an even level shows them.
    """
    place = (torch.arange(length, device=middle.device) + 0.5) / length
    start = middle * (1 + width) - width  # (B,)
    return ((place - start[:, None]) / width[:, None]).clamp(0, 1)

"""The forward process: each token is kept with probability 1 - t, else drawn anew.

A redrawn token is uniform over the whole vocabulary, special tokens included; there is no mask
token (facts of the published objective; model-spec trap 21).
"""

from __future__ import annotations

import torch
from torch import Tensor


def corrupt(
    tokens: Tensor, level: Tensor, *, vocab_size: int, generator: torch.Generator
) -> Tensor:
    """tokens (B, L) int64 at noise levels in [0, 1], (B,) or one a position (B, L) -> (B, L).

    At level 0 it is the identity, at level 1 the prior. A redraw may give the same token again.
    The generator is the CPU's: draws are the same on every device.
    """
    level = level.view(len(tokens), -1)  # (B, 1) or (B, L)
    redraw = torch.rand(tokens.shape, generator=generator).to(tokens.device) < level
    noise = torch.randint(vocab_size, tokens.shape, generator=generator).to(tokens.device)
    return torch.where(redraw, noise, tokens)


def ramp(middle: Tensor, width: Tensor, *, length: int) -> Tensor:
    """Noise levels (B, length) that rise from 0 to 1 along the canvas.

    middle (B,) in [0, 1] runs from all noise to all clean, width (B,) is the rise's share of the
    canvas. A sampler that grows an answer from its beginning meets such canvases far more often
    than an even level shows them.
    """
    place = (torch.arange(length, device=middle.device) + 0.5) / length
    start = middle * (1 + width) - width  # (B,)
    return ((place - start[:, None]) / width[:, None]).clamp(0, 1)

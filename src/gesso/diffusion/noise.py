"""The forward process: each token is kept with probability 1 - t, else drawn anew.

A redrawn token is uniform over the whole vocabulary, special tokens included; there is no mask
token (facts of the published objective; model-spec trap 21).
"""

from __future__ import annotations

import torch
from torch import Tensor

# By how many places a stretch slips; one is what samplers get wrong most.
_SLIPS = (-3, -2, -1, -1, -1, 1, 1, 1, 2, 3)


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


def slip(tokens: Tensor, uniform: Tensor, *, share: float) -> Tensor:
    """Move a stretch of tokens (B, L) by one to three places in that share of the rows.

    Where the stretch begins tokens are lost or doubled, and where it ends as well, unless it goes
    on to the end of the canvas, as half of them do. It is what is left when a sampler sets a
    word's neighbours before it knows how many tokens the word has. uniform (B, 4) in [0, 1):
    whether, by how many places, from where, until where.
    """
    length = tokens.shape[1]
    coin, size, begin, reach = uniform.split(1, dim=1)  # (B, 1)
    place = torch.arange(length, device=tokens.device)
    first = (begin * length).long()
    last = first + ((2 * reach).clamp(max=1) * (length - first)).ceil().long()
    moves = torch.tensor(_SLIPS, device=tokens.device)[(size * len(_SLIPS)).long()]
    moved = (coin < share) & (place >= first) & (place < last)  # (B, L)
    return tokens.gather(1, torch.where(moved, place + moves, place).clamp(0, length - 1))

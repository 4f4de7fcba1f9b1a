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
    """tokens (B, L) int64 at noise level (B,) in [0, 1] -> (B, L).

    At level 0 it is the identity, at level 1 the prior. A redraw may give the same token again.
    """
    redraw = torch.rand(tokens.shape, generator=generator) < level[:, None]
    noise = torch.randint(vocab_size, tokens.shape, generator=generator)
    return torch.where(redraw, noise, tokens)

"""Counter-based randomness: Philox4x32-10 (Salmon et al., SC 2011), integer by integer.

A draw is a function of (seed, stream, canvas, step, position) and of nothing else: not of batch
mates, not of how many draws came before. Key = the seed's two halves; counter = (position, step,
canvas, stream).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

SEED_LIMIT = 1 << 64


class Stream(IntEnum):
    """What a draw is for. New uses take new numbers: old results then stay what they were."""

    INITIAL_TOKEN = 0
    SAMPLE = 1
    RENOISE_TOKEN = 2


def philox(key: Sequence[Tensor], counter: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits from two key words and four counter words.

    All int64 tensors that broadcast, holding values below 2**32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def random_bits(seeds: Tensor, *, canvas: int, steps: range, length: int) -> Tensor:
    """seeds (B, 2) int64 halves -> (streams, B, steps, length) int64 words of 32 bits, one a
    position: all streams in one go, for it is calls that cost, not words."""
    device = seeds.device
    position = torch.arange(length, device=device)  # (L,)
    step = torch.arange(steps.start, steps.stop, device=device)[:, None]  # (n, 1)
    stream = torch.arange(len(Stream), device=device)[:, None, None, None]
    fixed = torch.zeros((), dtype=torch.int64, device=device)
    key = (seeds[:, 0, None, None], seeds[:, 1, None, None])
    return philox(key, (position, step, fixed + canvas, stream))[0]


def split_seeds(seeds: Sequence[int], device: torch.device) -> Tensor:
    """Seeds below 2**64 as (B, 2) int64: low and high half."""
    return torch.tensor([(s & _MASK, s >> 32) for s in seeds], dtype=torch.int64, device=device)


def to_token(bits: Tensor, vocab_size: int) -> Tensor:
    """Uniform ids in [0, vocab_size) from words of 32 bits (bias below vocab_size / 2**32)."""
    return (bits * vocab_size) >> 32


def to_uniform(bits: Tensor) -> Tensor:
    """Uniform float32 in [0, 1) from the upper 24 bits, exactly representable."""
    return (bits >> 8).to(torch.float32) * 2.0**-24


def _multiply(constant: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product, kept within 63 bits on the way."""
    low = constant * (x & 0xFFFF)
    high = constant * (x >> 16) + (low >> 16)
    return high >> 16, ((high << 16) & _MASK) | (low & 0xFFFF)

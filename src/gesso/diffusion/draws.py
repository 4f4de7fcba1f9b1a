"""What the loop needs of randomness, as tokens; and the seeded implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gesso.diffusion.rng import (
    Stream,
    random_bits,
    split_seeds,
    to_token,
    to_uniform,
)


class Draws(Protocol):
    """Draws for a batch of canvases. Another source (recorded draws, say) may take its place."""

    def initial(self, canvas: int) -> Tensor:
        """Tokens that a canvas starts from, (B, L) int64."""
        ...

    def sample(self, probabilities: Tensor, *, canvas: int, step: int) -> Tensor:
        """One token a position from (B, L, V) float32 -> (B, L) int64."""
        ...

    def renoise(self, *, canvas: int, step: int) -> Tensor:
        """Fresh noise for every position, (B, L) int64."""
        ...

    def select(self, rows: Tensor) -> Draws:
        """The draws of some rows alone; they are what they were in the whole batch."""
        ...


class SeededDraws:
    """Philox draws: a row's are a function of its seed alone."""

    # A call costs the same for one step as for some: words are drawn ahead.
    _AHEAD = 16

    def __init__(
        self, seeds: Sequence[int] | Tensor, *, length: int, vocab_size: int, device: torch.device
    ) -> None:
        """seeds: one a row, below 2**64; or (B, 2) halves as `split_seeds` gives them."""
        self._seeds = seeds if isinstance(seeds, Tensor) else split_seeds(seeds, device)
        self._length = length
        self._vocab_size = vocab_size
        self._at: tuple[int, int] | None = None
        self._drawn = torch.empty(0)

    def initial(self, canvas: int) -> Tensor:
        return to_token(self._bits(Stream.INITIAL_TOKEN, canvas, 0), self._vocab_size)

    def sample(self, probabilities: Tensor, *, canvas: int, step: int) -> Tensor:
        uniform = to_uniform(self._bits(Stream.SAMPLE, canvas, step))
        return invert_cumulative(probabilities, uniform)

    def renoise(self, *, canvas: int, step: int) -> Tensor:
        return to_token(self._bits(Stream.RENOISE_TOKEN, canvas, step), self._vocab_size)

    def select(self, rows: Tensor) -> SeededDraws:
        return SeededDraws(
            self._seeds[rows],
            length=self._length,
            vocab_size=self._vocab_size,
            device=self._seeds.device,
        )

    def _bits(self, stream: Stream, canvas: int, step: int) -> Tensor:
        """(B, L) words of one step."""
        first = step - step % self._AHEAD
        if self._at != (canvas, first):
            self._at = (canvas, first)
            self._drawn = random_bits(
                self._seeds,
                canvas=canvas,
                steps=range(first, first + self._AHEAD),
                length=self._length,
            )
        return self._drawn[stream, :, step - first]


def invert_cumulative(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first id whose cumulative probability passes the uniform: (..., V), (...) -> (...).

    The uniform is scaled by the sum, so that rounding never leaves the end of the list open: at
    most 1 - 2**-24, it never rounds up to the sum. An id of probability 0 is never chosen.
    """
    cumulative = probabilities.cumsum(-1)
    target = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True)[..., 0]

"""How the canvases of several rows take one step: the engine's fast part, in exchange.

Rows of one step may be at different steps of different canvases under different policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from gesso.cache import KVCache
from gesso.config import ModelConfig
from gesso.diffusion.loop import StepOutput
from gesso.engine.row import Row

# Activations of a token that a layer holds at once, as long as the widest of them.
_ACTIVATIONS = 16


class Stepper(Protocol):
    def begin(self, row: Row) -> None:
        """The row's columns and policy are there: its next canvas is noise."""
        ...

    def step(self, rows: Sequence[Row]) -> Iterator[tuple[Row, StepOutput]]:
        """One denoising step of each of these rows: what it gave, as a batch of one."""
        ...

    def encode(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Further columns, of ids (1, n), beside a row's canvas or for one without. Returns hidden
        states (1, n, M)."""
        ...

    def likeliest(self, hidden: Tensor) -> Tensor:
        """The tokens (1, n) that hidden states (1, n, M) speak for most."""
        ...

    def commit(self, row: Row, tokens: Tensor) -> StepOutput:
        """`begin` and the first step of the row's next canvas, of whose number and policy the row
        tells already, in one pass with the encoding of its last one, tokens (1, L)."""
        ...

    def leave(self, row: Row) -> None:
        """Nothing of this row is needed any more."""
        ...

    def clear(self) -> None:
        """Nor of any row, in whatever state an exception left them."""
        ...

    def workspace(self, *, rows: int, chunk: int) -> int:
        """Bytes of the tensors that come and go: with a step of so many canvases, with a chunk of
        a prompt."""
        ...

    def held(self, columns: Sequence[int]) -> int:
        """The most bytes of keys and values kept beside the rows' own, for rows of so many
        columns each; without rows, what is kept all the same."""
        ...


def activations(config: ModelConfig, tokens: int) -> int:
    """Bytes that a pass over so many tokens holds at once, in float32."""
    wide = max(config.text.intermediate_size, config.text.hidden_size)
    return tokens * wide * 4 * _ACTIVATIONS

"""What computes a pass over a network's layers: its own modules, or kernels in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from gesso.model.attention import Attend
from gesso.model.layer import Layer


class Runner(Protocol):
    """What computes a pass: a `Network` by its own modules, or kernels that read its weights."""

    def condition(self, x: Tensor, soft: Tensor | None) -> Tensor:
        """A canvas's embeddings x (..., M), and what the last step left of it or None, to what the
        first layer reads."""
        ...

    def stack(
        self,
        x: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        scalar: Callable[[Layer], Tensor],
        keep: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """All layers and the last norm: x (B, n, M) at positions (B or 1, n) -> the same shape.
        scalar: what a layer's result is multiplied by, (1,) or one for every token, (n, 1).
        keep(layer, keys, values): told of what each layer looked at."""
        ...

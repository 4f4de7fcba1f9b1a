"""Keys and values of several requests where kernels find them: one buffer a layer, a slot a row.

How many columns of a slot count is data on the device, so that what is recorded over the buffers
does not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gesso.cache import KVCache
from gesso.config import TextConfig


class Slots:
    """full and sliding (rows,) int64: columns that count on the layers of either kind. A full
    layer's number is also where the row's canvas stands."""

    def __init__(
        self,
        config: TextConfig,
        *,
        rows: int,
        columns: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rows, self.columns = rows, columns
        self.full = torch.zeros(rows, dtype=torch.int64, device=device)
        self.sliding = torch.zeros_like(self.full)
        self._config = config
        self._layers: list[tuple[Tensor, Tensor]] = []
        for index in range(config.num_layers):
            heads, dim = config.heads(index)
            kept = columns if config.is_full(index) else min(columns, config.sliding_window - 1)
            keys, values = (
                torch.zeros(rows, heads, kept, dim, dtype=dtype, device=device) for _ in range(2)
            )
            self._layers.append((keys, values))

    def put(self, row: int, cache: KVCache) -> None:
        """All columns of a request's cache (of a batch of one)."""
        assert cache.length <= self.columns
        self.full[row] = cache.length
        self.sliding[row] = min(cache.length, self._config.sliding_window - 1)
        for index, (keys, values) in enumerate(self._layers):
            for slot, kept in zip((keys, values), cache.stored(index), strict=True):
                slot[row, :, : kept.shape[2]] = kept[0]

    def layer(self, index: int, rows: int) -> tuple[Tensor, Tensor]:
        """(keys, values) of the first so many rows, (rows, K, S, D) each."""
        keys, values = self._layers[index]
        return keys[:rows], values[:rows]

    def lengths(self, index: int, rows: int) -> Tensor:
        """(rows,) columns that count on this layer, from the first on."""
        return (self.full if self._config.is_full(index) else self.sliding)[:rows]

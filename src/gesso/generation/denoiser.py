"""The network as the inner loop sees it: bound to a cache and to the rows' positions."""

from __future__ import annotations

import torch
from torch import Tensor

from gesso.cache import KVCache
from gesso.model.network import Network


class NetworkDenoiser:
    def __init__(self, network: Network, cache: KVCache, positions: Tensor) -> None:
        """positions (B, L): where each row's canvas stands."""
        self.network = network
        self._cache = cache
        self._positions = positions

    def __call__(self, canvas: Tensor, soft: Tensor | None) -> Tensor:
        return self.network.denoise(canvas, cache=self._cache, soft=soft, positions=self._positions)

    def soft_embed(self, logits: Tensor) -> Tensor:
        return self.network.soft_embed(logits)

    def no_soft_embedding(self) -> Tensor:
        """Zeros (B, L, M): what the network takes None for."""
        network = self.network
        return torch.zeros(
            *self._positions.shape,
            network.config.text.hidden_size,
            dtype=network.dtype,
            device=network.device,
        )

    def mark_lengths(self) -> None:
        """Tell the compiler that the cache's columns vary in number from call to call."""
        for index in range(self.network.config.text.num_layers):
            for tensor in self._cache.stored(index):
                torch._dynamo.maybe_mark_dynamic(tensor, 2)

    def select(self, rows: Tensor) -> NetworkDenoiser:
        return NetworkDenoiser(self.network, self._cache.select(rows), self._positions[rows])

"""The network as the inner loop sees it: bound to a cache and to the rows' positions."""

from __future__ import annotations

from torch import Tensor

from gesso.cache import KVCache
from gesso.model.network import Network


class NetworkDenoiser:
    def __init__(self, network: Network, cache: KVCache, positions: Tensor) -> None:
        """positions (B, L): where each row's canvas stands."""
        self._network = network
        self._cache = cache
        self._positions = positions

    def __call__(self, canvas: Tensor, soft: Tensor | None) -> Tensor:
        return self._network.denoise(
            canvas, cache=self._cache, soft=soft, positions=self._positions
        )

    def soft_embed(self, logits: Tensor) -> Tensor:
        return self._network.soft_embed(logits)

    def select(self, rows: Tensor) -> NetworkDenoiser:
        return NetworkDenoiser(self._network, self._cache.select(rows), self._positions[rows])

"""The network as the inner loop sees it: bound to a cache and to the rows' positions."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gesso.cache import CacheView, KVCache
from gesso.diffusion.loop import Reading
from gesso.diffusion.sampler import Belief, believe
from gesso.model.compiled import PackedColumns
from gesso.model.network import Network


class NetworkDenoiser:
    def __init__(
        self, network: Network, cache: KVCache, positions: Tensor, *, starts: Tensor | None = None
    ) -> None:
        """positions (B, L): where each row's canvas stands. starts: as in `Network.denoise`."""
        self._network = network
        self._cache = cache
        self._positions = positions
        self._starts = starts

    def read(self, tokens: Tensor, soft: Tensor | None, temperature: float | Tensor) -> Reading:
        network = self._network
        if network.compiled is not None:
            heat = torch.as_tensor(temperature).flatten().expand(len(tokens))
            *belief, soft = network.compiled.look(tokens, self._packed, soft, heat)
            return Reading(Belief(*belief), soft)
        logits = network.denoise(
            tokens, cache=self._cache, soft=soft, positions=self._positions, starts=self._starts
        )
        return read_logits(network, logits, temperature)

    def no_soft_embedding(self) -> Tensor:
        """Zeros (B, L, M): what the network takes None for."""
        network = self._network
        return torch.zeros(
            *self._positions.shape,
            network.config.text.hidden_size,
            dtype=network.dtype,
            device=network.device,
        )

    def select(self, rows: Tensor) -> NetworkDenoiser:
        starts = None if self._starts is None else self._starts[rows]
        return NetworkDenoiser(
            self._network, self._cache.select(rows), self._positions[rows], starts=starts
        )

    @cached_property
    def _packed(self) -> PackedColumns:
        """The columns stay as they are while this lives."""
        view = CacheView(self._cache, starts=self._starts)
        return PackedColumns(self._network, self._cache, self._positions, view=view)


def read_logits(network: Network, logits: Tensor, temperature: float | Tensor) -> Reading:
    """What a look's logits (b, L, V) say; temperature as in `Denoiser.read`."""
    logits = logits / temperature
    return Reading(believe(logits), network.soft_embed(logits))

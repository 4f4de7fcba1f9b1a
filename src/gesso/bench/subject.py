"""Whose speed is measured, where only the network counts: a checkpoint, or random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gesso.cache import parse_kv_cache_dtype
from gesso.checkpoint import load_network, read_config, resolve
from gesso.environment import fast_dtype, pick_device
from gesso.model.init import new_network
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network


@dataclass(frozen=True, kw_only=True)
class Subject:
    """source: a checkpoint; with `random`, its config.json alone counts. quantize and
    kv_cache_dtype: as in `gesso.load`. dtype: "auto" is bfloat16 where the device has products for
    it."""

    source: str
    random: bool = False
    quantize: str | None = None
    kv_cache_dtype: str = "auto"
    device: str = "auto"
    dtype: str = "auto"

    def build(self) -> Network:
        """ValueError for what is not known."""
        if self.quantize is not None and self.quantize not in SCHEMES:
            raise ValueError(
                f"quantize: got {self.quantize!r}; expected one of {', '.join(SCHEMES)}"
            )
        kept = parse_kv_cache_dtype(self.kv_cache_dtype)
        folder = resolve(self.source, weights=not self.random)
        place = pick_device(self.device)
        dtype = fast_dtype(place) if self.dtype == "auto" else getattr(torch, self.dtype)
        if self.random:
            network = new_network(read_config(folder), seed=0, dtype=dtype, device=place)
        else:
            network = load_network(folder, dtype=dtype, device=place)
        if self.quantize is not None:
            quantize_network(network, SCHEMES[self.quantize])
        network.kv_cache_dtype = kept
        return network.eval().requires_grad_(False)

    def about(self, network: Network) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "model": self.source,
            "random_weights": self.random,
            "quantize": self.quantize,
            "kv_cache_dtype": self.kv_cache_dtype,
            "dtype": str(network.dtype).removeprefix("torch."),
            "device": _name(network.device),
        }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

"""Whose speed is measured: a checkpoint, or random weights in its shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from gesso.cache import parse_kv_cache_dtype
from gesso.checkpoint import load_network, read_config, resolve
from gesso.environment import fast_dtype, pick_device
from gesso.generation.model import DiffusionGemma, load
from gesso.generation_config import GenerationConfig
from gesso.model.init import new_network
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network
from gesso.processor import Processor


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

    def load(self, *, compile: bool | Literal["auto"]) -> DiffusionGemma:
        """Ready to answer: a checkpoint as `gesso.load` gives it, random weights as built.

        ValueError for what is not known, and for random weights that are to be compiled.
        """
        if self.random:
            if compile is True:
                raise ValueError(
                    "compile: got True for random weights, which run as they are; leave it out"
                )
            return model_of(self.build())
        return load(
            self.source,
            quantize=self.quantize,
            kv_cache_dtype=self.kv_cache_dtype,
            device=self.device,
            dtype=self.dtype,
            compile=compile,
        )

    def build(self) -> Network:
        """The network alone. ValueError for what is not known."""
        if self.quantize is not None and self.quantize not in SCHEMES:
            raise ValueError(
                f"quantize: got {self.quantize!r}; expected one of {', '.join(SCHEMES)}"
            )
        kept = parse_kv_cache_dtype(self.kv_cache_dtype)
        folder = resolve(self.source, weights=not self.random)
        place = pick_device(self.device)
        dtype = fast_dtype(place) if self.dtype == "auto" else getattr(torch, self.dtype)
        scheme = None if self.quantize is None else SCHEMES[self.quantize]
        if self.random:
            network = new_network(read_config(folder), seed=0, dtype=dtype, device=place)
            if scheme is not None:
                quantize_network(network, scheme)
        else:
            network = load_network(folder, dtype=dtype, device=place, quantize=scheme)
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


def model_of(network: Network) -> DiffusionGemma:
    """It has to have a tokenizer, and gets that of `tiny`: of random ids most are no text."""
    return DiffusionGemma(network, Processor.load(resolve("tiny")), GenerationConfig())


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

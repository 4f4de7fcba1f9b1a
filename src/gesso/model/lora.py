"""Low-rank adapters (LoRA, arXiv 2106.09685): W + alpha / rank * B A with W at rest.

Encoder and denoiser are one stack of layers here, so they share one adapter, as they share W.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesso.kernels.experts import LowRank
from gesso.model.moe import Experts
from gesso.model.network import Network
from gesso.quant import QuantExperts, QuantLinear

# What can be adapted, by the names of modules; the image encoder has no adapters.
TARGETS = {
    "attention": r"layers\.\d+\.attention\.[qkvo]",
    "mlp": r"layers\.\d+\.mlp\.(gate|up|down)",
    "router": r"layers\.\d+\.router\.proj",
    "self_conditioning": r"self_conditioning\.mlp\.(gate|up|down)",
    "experts": r"layers\.\d+\.experts",
}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """rank of the change; alpha: it is scaled by alpha / rank; targets: which of `TARGETS`."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = tuple(TARGETS)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank: got {self.rank}; expected at least 1")
        if not math.isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"alpha: got {self.alpha}; expected a number above 0")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise ValueError(
                f"targets: got {list(self.targets)}; expected some of {', '.join(TARGETS)}"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LoraLinear(nn.Module):
    """base(x) + scale * b (a x); weight_a (r, in), weight_b (out, r)."""

    def __init__(self, base: nn.Linear | QuantLinear, config: LoraConfig, *, like: Tensor) -> None:
        super().__init__()
        self.base, self.scale = base, config.scale
        self.weight_a, self.weight_b = _factors(base.weight.shape, config.rank, like)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scale * F.linear(F.linear(x, self.weight_a), self.weight_b)


class LoraExperts(nn.Module):
    """All experts of a layer, each with a change of its own (shapes: `LowRank`)."""

    def __init__(self, base: Experts | QuantExperts, config: LoraConfig, *, like: Tensor) -> None:
        super().__init__()
        self.base, self.scale = base, config.scale
        self.gate_up_a, self.gate_up_b = _factors(base.gate_up.shape, config.rank, like)
        self.down_a, self.down_b = _factors(base.down.shape, config.rank, like)

    def forward(self, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        factors = (self.gate_up_a, self.gate_up_b, self.down_a, self.down_b)
        y: Tensor = self.base(x, index, weight, LowRank(*factors, self.scale))
        return y


def _factors(shape: torch.Size, rank: int, like: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """For a weight (..., out, in): a (..., r, in), not yet drawn, and b (..., out, r) of zeros."""
    *experts, out, inner = shape
    a, b = like.new_empty(*experts, rank, inner), like.new_zeros(*experts, out, rank)
    return nn.Parameter(a), nn.Parameter(b)


def add_adapter(network: Network, config: LoraConfig, *, seed: int = 0) -> None:
    """Freeze the network and give it an adapter to train, which at first changes nothing.

    In place: the targets, be they quantized or not, become `LoraLinear` and `LoraExperts`, with
    factors in the embedding's dtype. Refuses a network that has one.
    """
    if any(isinstance(module, LoraLinear | LoraExperts) for module in network.modules()):
        raise ValueError("the network has an adapter already; begin from the plain checkpoint")
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in list(targets_of(network, config)):
        base = network.get_submodule(name)
        adapted: LoraLinear | LoraExperts
        if isinstance(base, Experts | QuantExperts):
            adapted = LoraExperts(base, config, like=network.embed.weight)
        else:
            assert isinstance(base, nn.Linear | QuantLinear)
            adapted = LoraLinear(base, config, like=network.embed.weight)
        for leaf, parameter in adapted.named_parameters(recurse=False):
            if leaf.endswith("_a") and not parameter.is_meta:
                # As PEFT: uniform with the variance 1 / (3 in); drawn on the CPU, so that a seed
                # means the same on every device.
                bound = parameter.shape[-1] ** -0.5
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.data.copy_(drawn)
        network.set_submodule(name, adapted)


def targets_of(network: Network, config: LoraConfig) -> Iterator[str]:
    """Names of the modules that the config adapts, in the network's order."""
    wanted = re.compile("|".join(f"(?:{TARGETS[target]})" for target in config.targets))
    for name, _ in network.named_modules():
        if wanted.fullmatch(name):
            yield name


def adapted_weights(network: Network, config: LoraConfig) -> dict[str, nn.Parameter]:
    """The weights, by name, of a network without an adapter that the config would change."""
    return {
        f"{target}.{name}": parameter
        for target in targets_of(network, config)
        for name, parameter in network.get_submodule(target).named_parameters()
    }


@torch.no_grad()
def merge_change(weight: Tensor, a: Tensor, b: Tensor, *, scale: float) -> None:
    """weight (..., out, in) += scale * b (..., out, r) @ a (..., r, in), rounded once; of a stack
    one matrix after the other, for whose change there is room where there is not for all."""
    if weight.dim() > 2:
        for each in zip(weight, a, b, strict=True):
            merge_change(*each, scale=scale)
        return
    work = torch.promote_types(weight.dtype, torch.float32)
    change = b.to(weight.device, work) @ a.to(weight.device, work)
    weight.copy_(weight.to(work).add_(change, alpha=scale))

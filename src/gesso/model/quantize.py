"""A network whose weights are stored in few bits.

Embedding, routers, norms, scalars and the image encoder stay as they are: they are small, or the
choice of experts hangs on them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from gesso.model.lora import TARGETS
from gesso.model.moe import Experts
from gesso.model.network import Network
from gesso.quant import FP8, INT4, NVFP4, Format, QuantExperts, QuantLinear


@dataclass(frozen=True)
class Scheme:
    """Which format the experts get, and which the other linear maps of the text stack."""

    experts: Format
    linear: Format


SCHEMES: Mapping[str, Scheme] = {
    "fp8": Scheme(experts=FP8(), linear=FP8()),
    "nvfp4": Scheme(experts=NVFP4(), linear=FP8()),
    "int4": Scheme(experts=INT4(), linear=FP8()),
}
_LINEAR = re.compile("|".join(TARGETS[name] for name in ("attention", "mlp", "self_conditioning")))


def quantize_network(network: Network, scheme: Scheme) -> None:
    """In place, a module at a time; the network can be read and not trained after that.

    ValueError, and the network untouched, for weights that do not fall into the format's groups
    and for a network that has such weights already.
    """
    if is_quantized(network):
        raise ValueError("the weights are in few bits already; begin from those in bfloat16")
    found = quantizable(network)
    for module in found.values():
        _check(module, scheme)
    while found:
        # Nothing here is to hold the wide weights of what is done.
        name, module = found.popitem()
        if isinstance(module, Experts):
            network.set_submodule(name, QuantExperts(module, scheme.experts))
        else:
            network.set_submodule(name, QuantLinear(module.weight, scheme.linear))
        del module


def quantizable(network: Network) -> dict[str, Experts | nn.Linear]:
    """The wide modules, by name, whose weights may be stored in few bits."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Experts)
        or (isinstance(module, nn.Linear) and _LINEAR.fullmatch(name))
    }


def is_quantized(network: nn.Module) -> bool:
    return any(isinstance(module, QuantLinear | QuantExperts) for module in network.modules())


def _check(module: nn.Module, scheme: Scheme) -> None:
    form = scheme.experts if isinstance(module, Experts) else scheme.linear
    for weight in module.parameters(recurse=False):
        # One row of zeros says whether the format takes such rows.
        form.quantize(weight.detach().new_zeros(1, weight.shape[-1]))


def stored_bytes(network: nn.Module) -> int:
    """Of all weights, as they lie in memory."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

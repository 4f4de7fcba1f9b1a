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

    ValueError, and the network untouched, for weights that do not fall into the format's groups.
    """
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Experts) or _LINEAR.fullmatch(name)
    }
    for module in found.values():
        _check(module, scheme)
    for name, module in found.items():
        if isinstance(module, Experts):
            network.set_submodule(name, QuantExperts(module, scheme.experts))
        else:
            assert isinstance(module, nn.Linear)
            network.set_submodule(name, QuantLinear(module.weight, scheme.linear))


def _check(module: nn.Module, scheme: Scheme) -> None:
    form = scheme.experts if isinstance(module, Experts) else scheme.linear
    for weight in module.parameters(recurse=False):
        # One row of zeros says whether the format takes such rows.
        form.quantize(weight.detach().new_zeros(1, weight.shape[-1]))


def stored_bytes(network: nn.Module) -> int:
    """Of all weights, as they lie in memory."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

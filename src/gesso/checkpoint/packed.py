"""The weights of a network that a file holds in few bits: found, laid out, and filled in.

Experts are stacked here and stored one by one there (model-spec §9), so each of the file's tensors
is some rows of one of the network's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.checkpoint.layouts import Layout, Part
from gesso.checkpoint.names import published_modules
from gesso.checkpoint.shards import HEADER, Stored
from gesso.model.moe import Experts
from gesso.model.network import Network
from gesso.model.quantize import quantizable
from gesso.quant import QuantExperts, QuantLinear
from gesso.quant.modules import Stored as StoredWeight
from gesso.values import naming


class Rows(NamedTuple):
    """Where one of the file's tensors belongs: into which part of which weight, in which matrix
    of its stack and which rows of that. like: what it has to look like, without memory."""

    weight: str
    part: Part
    matrix: int | None
    rows: slice
    like: Tensor


def find_packed(
    network: Network, stored: Mapping[str, Stored], layouts: Sequence[Layout]
) -> dict[str, Layout]:
    """Those of a wide network's weights, by native name, that the file has in one of the layouts.

    ValueError when it has only one of a layer's two stacks of experts so.
    """
    found: dict[str, Layout] = {}
    for name, module in quantizable(network).items():
        weights = {f"{name}.{leaf}": w for leaf, w in module.named_parameters(recurse=False)}
        for weight, tensor in weights.items():
            first = _modules(network, weight)[0][0]
            for layout in layouts:
                key = stored.get(f"{first}.{layout.parts[0].suffix}")
                if key is not None and key.dtype == HEADER[layout.dtype]:
                    scale = stored.get(f"{first}.weight_scale")
                    groups = scale.shape[-1] if scale and scale.shape else 1
                    with naming(f"{key.file}: {first}"):
                        found[weight] = layout.fitted(inputs=tensor.shape[-1], groups=groups)
        if len(weights.keys() & found.keys()) not in (0, len(weights)):
            parts = ", ".join(_modules(network, weight)[0][0] for weight in weights)
            raise ValueError(
                f"{next(iter(stored.values())).file.parent}: only some of {parts} are in few "
                "bits; an expert is read all in few bits or not at all"
            )
    return found


def lay_out(network: Network, packed: Mapping[str, Layout]) -> None:
    """Put modules for such weights in place of the wide ones; all on the meta device."""
    for name, module in quantizable(network).items():
        if isinstance(module, Experts) and f"{name}.down" in packed:
            experts = QuantExperts(module, packed[f"{name}.gate_up"].form)
            experts.down = StoredWeight(module.down, packed[f"{name}.down"].form)
            network.set_submodule(name, experts)
        elif f"{name}.weight" in packed:
            assert not isinstance(module, Experts)
            linear = QuantLinear(module.weight, packed[f"{name}.weight"].form)
            network.set_submodule(name, linear)
    for weight in packed:
        # Gate and up may each have a `whole` of their own: until all are there, one a row.
        stored = _weight(network, weight)
        if "whole" in dict(stored.named_buffers()):
            rows = stored.get_buffer("scale")[..., :1]
            stored.whole = torch.empty_like(rows, dtype=torch.float32)


def expected_rows(network: Network, packed: Mapping[str, Layout]) -> dict[str, Rows]:
    """Every tensor that the file has to hold for these weights, by its published name.

    network: laid out, without memory.
    """
    found: dict[str, Rows] = {}
    for weight, layout in packed.items():
        stored = _weight(network, weight)
        for number, modules in enumerate(_modules(network, weight)):
            matrix = number if len(stored.shape) == 3 else None
            count = stored.shape[-2] // len(modules)
            for place, module in enumerate(modules):
                rows = slice(place * count, (place + 1) * count)
                like = layout.write(
                    {name: _of(buffer, matrix)[rows] for name, buffer in stored.named_buffers()}
                )
                for part in layout.parts:
                    found[f"{module}.{part.suffix}"] = Rows(
                        weight, part, matrix, rows, like[part.suffix]
                    )
    return found


def spare_names(network: Network, packed: Mapping[str, Layout]) -> set[str]:
    """What may lie beside them and is not read: scales of activations, the shape once more."""
    return {
        f"{module}.{suffix}"
        for weight, layout in packed.items()
        for modules in _modules(network, weight)
        for module in modules
        for suffix in layout.spare
    }


def fill_in(network: Network, rows: Rows, tensor: Tensor, *, device: torch.device | str) -> None:
    """Put one of the file's tensors in its place; the first of a weight makes room for all."""
    room = _weight(network, rows.weight).room(rows.part.name, device)
    # The one number of a `whole` goes to all its rows.
    _of(room, rows.matrix)[rows.rows] = tensor.to(device)


def finish(network: Network, packed: Mapping[str, Layout]) -> None:
    """Keep one `whole` a matrix where all its rows have the same, as `quantize` makes it."""
    for weight in packed:
        stored = _weight(network, weight)
        if "whole" in dict(stored.named_buffers()):
            rows = stored.get_buffer("whole")
            first = rows[..., :1, :]
            if torch.equal(rows, first.expand_as(rows)):
                stored.whole = first.clone()


def _modules(network: Network, weight: str) -> list[tuple[str, ...]]:
    return published_modules(weight, experts=network.config.text.num_experts)


def _weight(network: Network, name: str) -> StoredWeight:
    stored = network.get_submodule(name)
    assert isinstance(stored, StoredWeight)
    return stored


def _of(buffer: Tensor, matrix: int | None) -> Tensor:
    return buffer if matrix is None else buffer[matrix]

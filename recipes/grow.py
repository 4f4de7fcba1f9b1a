"""A checkpoint with some of its layers twice, which says what it said before, to be trained on.

    python recipes/grow.py runs/tiny-now/checkpoint --repeat 1 3 --out runs/tiny-grown/checkpoint

The second of such a pair begins as a copy whose branches end in norms of weight zero: it adds
nothing until training finds something to add, and has something to begin with.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gesso.checkpoint import load_network, read_generation_config, resolve, save_checkpoint
from gesso.model.init import new_network
from gesso.model.network import Network

# What stands between a layer's branches and the residual stream, and what scales that; as values
# for which a layer is not there.
_SILENT = {
    "post_attention_norm.weight": 0.0,
    "post_norm.weight": 0.0,
    "encode_scalar": 1.0,
    "denoise_scalar": 1.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--repeat", type=int, nargs="+", required=True, metavar="LAYER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = resolve(args.checkpoint)
    save_checkpoint(
        deepened(load_network(folder, dtype=torch.float32), args.repeat),
        args.out,
        dtype=torch.bfloat16,
        generation=read_generation_config(folder),
        processor=folder,
    )


@torch.no_grad()
def deepened(network: Network, repeat: Sequence[int]) -> Network:
    """repeat: which layers come twice, from 0. ValueError: there is none of that number."""
    text = network.config.text
    if unknown := sorted(set(repeat) - set(range(text.num_layers))):
        raise ValueError(
            f"repeat: got {unknown}; the network has layers 0 to {text.num_layers - 1}"
        )
    source = sorted([*range(text.num_layers), *set(repeat)])
    kinds = tuple(text.layer_types[layer] for layer in source)
    deeper = new_network(replace(network.config, text=replace(text, layer_types=kinds)), seed=0)
    given = network.state_dict()
    for name, tensor in deeper.state_dict().items():
        if not name.startswith("layers."):
            tensor.copy_(given[name])
            continue
        _, number, rest = name.split(".", 2)
        layer = int(number)
        tensor.copy_(given[f"layers.{source[layer]}.{rest}"])
        if layer and source[layer] == source[layer - 1] and rest in _SILENT:
            tensor.fill_(_SILENT[rest])
    return deeper


if __name__ == "__main__":
    main()

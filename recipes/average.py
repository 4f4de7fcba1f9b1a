"""The mean of several checkpoints of one shape, which often does better than each of them.

    python recipes/average.py runs/x/checkpoint runs/x-more/checkpoint --out runs/x-mean

Only where they come from one another: weights that were trained apart have no mean to speak of.
Generation defaults, tokenizer and template are the last one's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gesso.checkpoint import (
    load_network,
    read_config,
    read_generation_config,
    resolve,
    save_checkpoint,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folders = [resolve(source) for source in args.checkpoints]
    check_shapes(folders)
    networks = [load_network(folder, dtype=torch.float32) for folder in folders]
    mean = networks[-1]
    others = [network.state_dict() for network in networks[:-1]]
    with torch.no_grad():
        for name, tensor in mean.state_dict().items():
            tensor.copy_(torch.stack([tensor, *(other[name] for other in others)]).mean(0))
    save_checkpoint(
        mean,
        args.out,
        dtype=torch.bfloat16,
        generation=read_generation_config(folders[-1]),
        processor=folders[-1],
    )


def check_shapes(folders: Sequence[Path]) -> None:
    """ValueError: they are not checkpoints of one shape."""
    shapes = [replace(read_config(folder), dtype="float32") for folder in folders]
    for folder, shape in zip(folders, shapes, strict=True):
        if shape != shapes[-1]:
            raise ValueError(
                f"{folder}: its config.json is of another shape than {folders[-1]}'s; give "
                "checkpoints that come from one another"
            )


if __name__ == "__main__":
    main()

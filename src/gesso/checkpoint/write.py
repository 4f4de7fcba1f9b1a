"""A checkpoint's folder, in the published layout.

At every moment the folder is either a whole checkpoint or one that `load_network` refuses, never a
mixture of two that loads (`replacing_in`): its entry is the index, or the single file.

The same pieces and options give the same bytes: file order, tensor order and JSON are fixed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from gesso.checkpoint.names import published_name
from gesso.checkpoint.read import DTYPES, GENERATION_FILE, OWN_FILE, require_finite
from gesso.checkpoint.schemes import CONFIG_FILE, MODELOPT_FILE
from gesso.checkpoint.shards import INDEX_FILE, SINGLE_FILE, shard_file
from gesso.files import replacing_in
from gesso.generation_config import GenerationConfig
from gesso.model.network import Network, parameter_count
from gesso.model.quantize import is_quantized

# What a checkpoint carries for its texts and images; the first is the one that must be there.
PROCESSOR_FILE = "tokenizer.json"
_COMPANIONS = (
    PROCESSOR_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
)


class Piece(NamedTuple):
    """Tensors that are made together when it is their turn to be written. sizes: in bytes, by
    published name."""

    sizes: Mapping[str, int]
    make: Callable[[], Mapping[str, Tensor]]


class Shard(NamedTuple):
    file: str
    pieces: list[Piece]


def save_checkpoint(
    network: Network,
    folder: Path,
    *,
    generation: GenerationConfig | None,
    dtype: torch.dtype | None = None,
    processor: Path | None = None,
    max_shard_bytes: int = 5 * 1000**3,
) -> None:
    """Write a checkpoint that this package and transformers read.

    dtype None: the network's own; other arguments as in `write_checkpoint`. At most one file's
    worth is held in memory beside the network. ValueError, and the folder untouched, for NaN or
    infinite weights and for a network in few bits: its file is there already, or `gesso convert`
    makes one from the wide weights, which may still be trained and merged into.
    """
    dtype = network.dtype if dtype is None else dtype
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype}; expected one of {', '.join(DTYPES)}")
    if is_quantized(network):
        raise ValueError(
            "a network whose weights are in few bits is not saved; keep the checkpoint that it "
            "came from, or make one with gesso convert --quantize"
        )

    def piece(name: str, tensor: Tensor) -> Piece:
        return Piece(
            {name: tensor.numel() * dtype.itemsize}, lambda: {name: _stored(name, tensor, dtype)}
        )

    write_checkpoint(
        [piece(published_name(name), tensor) for name, tensor in network.state_dict().items()],
        folder,
        config=replace(network.config, dtype=str(dtype).removeprefix("torch.")).to_json(),
        generation=generation,
        parameters=parameter_count(network),
        processor=processor,
        max_shard_bytes=max_shard_bytes,
    )


def write_checkpoint(
    pieces: Sequence[Piece],
    folder: Path,
    *,
    config: Mapping[str, Any],
    generation: GenerationConfig | None,
    parameters: int,
    processor: Path | None,
    max_shard_bytes: int,
    on_piece: Callable[[int, int], None] | None = None,
) -> None:
    """Write pieces in their order.

    config: of config.json. generation None writes no generation_config.json; what is not
    for other loops goes into gesso.json, where it is not the default. parameters: how many,
    for the index. processor: a folder whose tokenizer, chat template and image settings go along.
    Weights of more than max_shard_bytes go into several files (a larger piece gets one to itself),
    and one file's pieces are held in memory at a time. on_piece is told how many of how many are
    done. Files of the folder that are no checkpoint's stay as they are, and without a processor the
    one that is there. ValueError, and the folder untouched, for a processor without a tokenizer;
    whatever else a piece raises leaves it untouched too.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}; expected at least 1")
    companions = _companions(processor)
    shards = plan_shards(pieces, max_shard_bytes=max_shard_bytes)
    done = 0

    # What told of an earlier checkpoint's weights, and where there is a new tokenizer, texts.
    outdated = ["model-*-of-*.safetensors", MODELOPT_FILE]
    if processor is not None:
        outdated += [GENERATION_FILE, *_COMPANIONS]
    if processor is not None or generation is not None:
        outdated.append(OWN_FILE)
    with replacing_in(folder, entries=(SINGLE_FILE, INDEX_FILE), outdated=outdated) as partial:
        _write_json(partial / CONFIG_FILE, config)
        if generation is not None:
            _write_json(partial / GENERATION_FILE, generation.to_json())
            if generation.own_json() != GenerationConfig().own_json():
                _write_json(partial / OWN_FILE, generation.own_json())
        for file in companions:
            shutil.copyfile(file, partial / file.name)
        for shard in shards:
            tensors: dict[str, Tensor] = {}
            for piece in shard.pieces:
                tensors |= piece.make()
                done += 1
                if on_piece is not None:
                    on_piece(done, len(pieces))
            save_file(tensors, partial / shard.file, metadata={"format": "pt"})
        if len(shards) > 1:
            _write_json(partial / INDEX_FILE, _index(shards, parameters))


def plan_shards(pieces: Sequence[Piece], *, max_shard_bytes: int) -> list[Shard]:
    """Pieces in their order, a new file whenever the next would not fit the current one."""
    groups: list[list[Piece]] = [[]]
    filled = 0
    for piece in pieces:
        size = sum(piece.sizes.values())
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += size
    if len(groups) == 1:
        return [Shard(SINGLE_FILE, groups[0])]
    return [Shard(shard_file(number, len(groups)), held) for number, held in enumerate(groups, 1)]


def _companions(processor: Path | None) -> list[Path]:
    if processor is None:
        return []
    found = [processor / name for name in _COMPANIONS if (processor / name).is_file()]
    if processor / PROCESSOR_FILE not in found:
        raise ValueError(f"{processor}: no {PROCESSOR_FILE} to copy into the checkpoint")
    return found


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
    require_finite(
        stored,
        where=f"{name} in {dtype}",
        mend="such a network is not saved, for no "
        "reader would take it; go back to an earlier one, or save in a wider dtype",
    )
    return stored


def _index(shards: list[Shard], parameters: int) -> dict[str, Any]:
    sizes = [piece.sizes for shard in shards for piece in shard.pieces]
    return {
        "metadata": {
            "total_parameters": parameters,
            "total_size": sum(sum(each.values()) for each in sizes),
        },
        "weight_map": {
            name: shard.file
            for shard in shards
            for name in sorted(name for piece in shard.pieces for name in piece.sizes)
        },
    }


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

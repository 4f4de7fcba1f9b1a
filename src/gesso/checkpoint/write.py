"""A checkpoint's folder from a network, in the published layout.

Everything is first written whole into a folder beside the target, and flushed to the disk. A
target that does not exist is then made by one rename. One that exists keeps the files that are
not ours (a tokenizer, logs), so it is not swapped as a whole: the old weights' entry (the index,
or the single file) is removed, the new files move in one by one, and their entry comes last. At
every moment the folder is thus either a whole checkpoint or one that `load_network` refuses,
never a mixture of two that loads; and while it is refused, the new one lies beside it.

The same network and options give the same bytes: file order, tensor order and JSON are fixed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor

from gesso.checkpoint.names import published_name
from gesso.checkpoint.read import CONFIG_FILE, DTYPES, GENERATION_FILE, require_finite
from gesso.checkpoint.shards import INDEX_FILE, SINGLE_FILE, shard_file
from gesso.config import GenerationConfig
from gesso.model.network import Network, parameter_count

# What a checkpoint carries for its texts and images; the first is the one that must be there.
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
)


class Shard(NamedTuple):
    file: str
    names: list[str]


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

    generation None writes no generation_config.json. dtype None: the network's own. processor: a
    folder whose tokenizer, chat template and image settings go along. Weights of more than
    max_shard_bytes go into several files (a larger tensor gets one to itself), and at most one
    file's worth is held in memory beside the network. Files of the folder that are not written
    here stay as they are. ValueError, and the folder untouched, for NaN or infinite weights and
    for a processor without a tokenizer.
    """
    dtype = network.dtype if dtype is None else dtype
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype}; expected one of {', '.join(DTYPES)}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}; expected at least 1")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give the name of a folder")
    companions = _companions(processor)
    tensors = {published_name(name): tensor for name, tensor in network.state_dict().items()}
    shards = plan_shards(tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)

    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{uuid4().hex[:8]}")
    partial.mkdir()
    try:
        name = str(dtype).removeprefix("torch.")
        _write_json(partial / CONFIG_FILE, replace(network.config, dtype=name).to_json())
        if generation is not None:
            _write_json(partial / GENERATION_FILE, generation.to_json())
        for file in companions:
            shutil.copyfile(file, partial / file.name)
            _flush(partial / file.name)
        for shard in shards:
            _write_shard(partial / shard.file, {n: tensors[n] for n in shard.names}, dtype)
        if len(shards) > 1:
            _write_json(partial / INDEX_FILE, _index(network, tensors, shards, dtype))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # From here on the partial folder is whole; should a move fail, it stays.
    _publish(partial, folder)


def plan_shards(
    tensors: Mapping[str, Tensor], *, dtype: torch.dtype, max_shard_bytes: int
) -> list[Shard]:
    """Tensors in their order, a new file whenever the next would not fit the current one."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * dtype.itemsize
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return [Shard(SINGLE_FILE, groups[0])]
    return [Shard(shard_file(number, len(groups)), names) for number, names in enumerate(groups, 1)]


def _companions(processor: Path | None) -> list[Path]:
    if processor is None:
        return []
    found = [processor / name for name in _COMPANIONS if (processor / name).is_file()]
    if processor / _COMPANIONS[0] not in found:
        raise ValueError(f"{processor}: no {_COMPANIONS[0]} to copy into the checkpoint")
    return found


def _write_shard(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    stored = {
        name: tensor.detach().to(device="cpu", dtype=dtype).contiguous()
        for name, tensor in tensors.items()
    }
    for name, tensor in stored.items():
        require_finite(
            tensor,
            where=f"{name} in {dtype}",
            mend="such a network is not saved, for no "
            "reader would take it; go back to an earlier one, or save in a wider dtype",
        )
    save_file(stored, file, metadata={"format": "pt"})
    _flush(file)


def _index(
    network: Network, tensors: Mapping[str, Tensor], shards: list[Shard], dtype: torch.dtype
) -> dict[str, Any]:
    size = sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    return {
        "metadata": {"total_parameters": parameter_count(network), "total_size": size},
        "weight_map": {name: shard.file for shard in shards for name in sorted(shard.names)},
    }


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _flush(file)


def _flush(path: Path) -> None:
    """To the disk itself: a rename must not become visible before what it names."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _publish(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    entries = (SINGLE_FILE, INDEX_FILE)
    for entry in entries:
        (folder / entry).unlink(missing_ok=True)
    new = sorted((path.name for path in partial.iterdir()), key=lambda name: name in entries)
    for name in new:
        os.replace(partial / name, folder / name)
    for shard in folder.glob("model-*-of-*.safetensors"):
        if shard.name not in new:
            shard.unlink()
    partial.rmdir()

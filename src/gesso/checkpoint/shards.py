"""The files that hold a checkpoint's weights: one, or shards under an index.

Knows names, shapes and dtypes, never the network. Everything is checked from the headers, which
are small, so that an unfit checkpoint is refused before its first weight is read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gesso.values import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# How headers spell the dtypes that are met in them.
HEADER = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint8: "U8",
    torch.int32: "I32",
}

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TORN = "the file is cut short or damaged; download or write it again"


class Stored(NamedTuple):
    """Where a tensor lies, and what its file's header says of it ("BF16", "U8", ...)."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def shard_file(number: int, count: int) -> str:
    """The name of shard `number`, counted from 1."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def inventory(folder: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint by its published name.

    ValueError when the weights are not there, not safetensors, damaged, or not what their index
    says.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file() and index.is_file():
        raise ValueError(
            f"{folder}: holds both {SINGLE_FILE} and {INDEX_FILE}, and they may differ; "
            "remove the one that is out of date"
        )
    if single.is_file():
        return header(single)
    if index.is_file():
        return _sharded(index)
    raise ValueError(_why_no_weights(folder))


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """A safetensors file, read with plain reads rather than mapped.

    A mapping would keep the file's pages beside the model's own memory, and would change under
    the model when another process rewrites the file.
    """
    try:
        with safe_open(file, framework="pt", backend="pread") as weights:
            yield weights
    except SafetensorError as error:
        raise ValueError(f"{file}: not readable as safetensors ({error}); {_TORN}") from None


def read_matrix(file: Path, name: str, number: int) -> Tensor:
    """One matrix of a stack (E, out, in) in a file that `inventory` has accepted.

    safetensors' own slices, when not mapped, read the whole tensor.
    """
    with file.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        entry = json.loads(raw.read(size))[name]
        dtype = next(each for each, spelt in HEADER.items() if spelt == entry["dtype"])
        _, out, inner = entry["shape"]
        length = out * inner * dtype.itemsize
        raw.seek(8 + size + entry["data_offsets"][0] + number * length)
        # From a bytearray, for a tensor has to be writable.
        return torch.frombuffer(bytearray(raw.read(length)), dtype=dtype).view(out, inner)


def header(file: Path) -> dict[str, Stored]:
    """Of every tensor in a safetensors file."""
    with open_weights(file) as weights:
        slices = {name: weights.get_slice(name) for name in weights.offset_keys()}
        return {
            name: Stored(file, part.get_dtype(), tuple(part.get_shape()))
            for name, part in slices.items()
        }


def _sharded(index: Path) -> dict[str, Stored]:
    promised = _promised(index)
    absent = [name for name in promised if not (index.parent / name).is_file()]
    if absent:
        raise ValueError(
            f"{index}: names {listed(absent, 'shard')} that the folder does not hold; "
            "download or copy the missing files"
        )
    found: dict[str, Stored] = {}
    for shard, names in promised.items():
        held = header(index.parent / shard)
        if lacking := sorted(names - held.keys()):
            raise ValueError(
                f"{index.parent / shard}: lacks {listed(lacking, 'tensor')} that {INDEX_FILE} "
                "places there; shards and index come from different checkpoints"
            )
        if unlisted := sorted(held.keys() - names):
            raise ValueError(
                f"{index.parent / shard}: holds {listed(unlisted, 'tensor')} that {INDEX_FILE} "
                "does not place there; shards and index come from different checkpoints"
            )
        found |= held
    return found


def _promised(index: Path) -> dict[str, set[str]]:
    """The names of the tensors that an index places in each shard."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: has no weight_map; {_TORN}")
    promised: defaultdict[str, set[str]] = defaultdict(set)
    for name, shard in weight_map.items():
        # A shard lies beside its index: a path that leads elsewhere is refused.
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ValueError(f"{index}: {shard!r} is not the name of a file beside the index")
        promised[shard].add(name)
    return dict(sorted(promised.items()))


def _why_no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder"
    if loose := sorted(path.name for path in folder.glob("*.safetensors")):
        return (
            f"{folder}: has {listed(loose, 'file')} but neither {SINGLE_FILE} nor {INDEX_FILE}; "
            "a checkpoint in shards needs its index"
        )
    if pickles := sorted(path.name for kind in _PICKLES for path in folder.glob(kind)):
        return (
            f"{folder}: has {listed(pickles, 'file')}, which may run code when opened; weights "
            "are read from safetensors only, so convert them first"
        )
    return f"{folder}: holds no weights; expected {SINGLE_FILE} or {INDEX_FILE} with its shards"


def listed(names: list[str], noun: str, *, most: int = 5) -> str:
    """ "3 tensors: a, b, c", cut after the first few."""
    shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({shown})"

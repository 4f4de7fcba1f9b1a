"""A network from a checkpoint's folder.

The network is laid out without memory first; then each tensor is read, checked, cast, moved and
put in its place before the next one is read. Host memory peaks at the model and one tensor. Weights
that the file has in few bits stay so, and those that are to have few are rounded as they arrive.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from gesso.checkpoint.layouts import Layout
from gesso.checkpoint.names import is_tied_copy, published_name
from gesso.checkpoint.packed import (
    Rows,
    expected_rows,
    fill_in,
    find_packed,
    finish,
    lay_out,
    spare_names,
)
from gesso.checkpoint.schemes import CONFIG_FILE, Quantization, read_quantization
from gesso.checkpoint.shards import HEADER, Stored, inventory, listed, open_weights
from gesso.config import ModelConfig
from gesso.generation_config import GenerationConfig
from gesso.model.network import Network
from gesso.model.quantize import Scheme, quantize_network
from gesso.quant.modules import Stored as StoredWeight
from gesso.values import naming, read_json

if TYPE_CHECKING:
    from gesso.checkpoint.adapter import Adapter

GENERATION_FILE = "generation_config.json"
OWN_FILE = "gesso.json"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOATS = ("F64", "F32", "F16", "BF16")


def read_config(folder: Path) -> ModelConfig:
    """config.json of a checkpoint; one that names no dtype has that of the weights beside it.
    ValueError names what is missing or unfit."""
    raw = read_json(folder / CONFIG_FILE)
    if not (raw.get("dtype") or raw.get("torch_dtype")):
        raw["dtype"] = _stored_dtype(folder)
    with naming(folder / CONFIG_FILE):
        return ModelConfig.parse(raw)


def read_generation_config(folder: Path) -> GenerationConfig:
    """generation_config.json of a checkpoint, and gesso.json; without the files, the defaults and
    the model's ids of end tokens and padding. ValueError names what is unfit."""
    file, own, model = folder / GENERATION_FILE, folder / OWN_FILE, read_config(folder)
    with naming(file):
        config = GenerationConfig.parse(read_json(file) if file.is_file() else {}, model=model)
    with naming(own):
        return config.with_own(read_json(own) if own.is_file() else {})


def load_network(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    adapter: Adapter | None = None,
    quantize: Scheme | None = None,
    on_tensor: Callable[[str, Tensor], None] = lambda name, tensor: None,
) -> Network:
    """The network of a checkpoint, whole and on `device`.

    dtype: float32, bfloat16 or float16, of what is not in few bits; None takes the one that
    config.json names. adapter: is merged into the wide weights. quantize: what `quantize_network`
    would make of the network then, bit for bit, but each matrix is changed and rounded when it is
    read, so that `device` never holds the wide weights. on_tensor is shown each tensor as the file
    has it, by native name where it is wide there. Weights that are in few bits (model-spec §9) stay
    so, in `QuantLinear` and `QuantExperts`, and what the file says of activations and of the cache
    is not carried out. Second copies of tied tensors are ignored. ValueError, before any weight is
    read, for a folder whose files or tensors are not those of the network that its config.json
    describes, or cannot be quantized; while reading, for damaged data and for NaN or infinite
    weights.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; a checkpoint is a folder with {CONFIG_FILE}")
    config = read_config(folder)
    dtype = chosen_dtype(folder, config, dtype)
    with torch.device("meta"):
        network = Network(config)
    contents = take_stock(folder, network)
    if quantize is not None:
        quantize_network(network, quantize)
    native, rows = contents.native, contents.rows
    few_bits = {n: m for n, m in network.named_modules() if isinstance(m, StoredWeight)}
    for file in sorted({contents.stored[name].file for name in (*native, *rows)}):
        with open_weights(file) as weights:
            # In the order of the file: one pass over the disk.
            for name in weights.offset_keys():
                if name in native:
                    raw = weights.get_tensor(name)
                    on_tensor(native[name], raw)
                    reading = partial(
                        merged, adapter, native[name], file, name, dtype=dtype, device=device
                    )
                    if stored := few_bits.get(native[name]):
                        _round(stored, raw, reading)
                    else:
                        _place(network, native[name], reading(raw))
                    del raw  # before the next one is read
                elif name in rows:
                    raw = weights.get_tensor(name)
                    on_tensor(name, raw)
                    part = _checked_part(file, name, raw, rows[name])
                    fill_in(network, rows[name], part, device=device)
    finish(network, contents.packed)
    assert not any(t.is_meta for t in network.state_dict().values()), "a tensor was left out"
    return network


class Contents(NamedTuple):
    """What a folder holds of a network: every tensor by its published name; of the wide ones the
    native name; the weights that are in few bits, by native name, and the tensors they are in."""

    stored: Mapping[str, Stored]
    native: Mapping[str, str]
    packed: Mapping[str, Layout]
    rows: Mapping[str, Rows]


def take_stock(folder: Path, network: Network) -> Contents:
    """Check the headers against a network without memory, which is laid out as the folder has it.

    ValueError when the folder's tensors are not the network's.
    """
    stored, quantization = inventory(folder), read_quantization(folder)
    packed = find_packed(network, stored, quantization.layouts if quantization else ())
    wide = {name: t.shape for name, t in network.state_dict().items() if name not in packed}
    native = {published_name(name): name for name in wide}
    lay_out(network, packed)
    rows = expected_rows(network, packed)
    _check_known(folder, stored, quantization)
    _check_names(folder, stored, {*native, *rows}, spare=spare_names(network, packed))
    for name in native:
        _check_wide(stored[name], name, wide[native[name]])
    for name, wanted in rows.items():
        _check_packed(stored[name], name, wanted.like)
    return Contents(stored, native, packed, rows)


def require_finite(tensor: Tensor, *, where: str, mend: str) -> None:
    """ValueError when a tensor holds NaN or an infinity. One pass, and no copy of the tensor."""
    # NaN wins over every number in both ends of the range.
    ends = torch.stack(torch.aminmax(tensor))
    if not bool(ends.isfinite().all()):
        raise ValueError(f"{where}: holds NaN or infinite values; {mend}")


def chosen_dtype(folder: Path, config: ModelConfig, dtype: torch.dtype | None) -> torch.dtype:
    expected = f"expected one of {', '.join(DTYPES)}"
    if dtype is None:
        if config.dtype not in DTYPES:
            raise ValueError(f"{folder / CONFIG_FILE}: dtype is {config.dtype!r}; {expected}")
        return DTYPES[config.dtype]
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype}; {expected}")
    return dtype


def _stored_dtype(folder: Path) -> str | None:
    """What most bytes of the wide weights are in; None where no weights can be read, which is said
    when they are asked for."""
    try:
        stored = inventory(folder)
    except ValueError:
        return None
    floats = {spelt: dtype for dtype, spelt in HEADER.items() if spelt in FLOATS}
    held: Counter[torch.dtype] = Counter()
    for entry in stored.values():
        if dtype := floats.get(entry.dtype):
            held[dtype] += math.prod(entry.shape) * dtype.itemsize
    return str(max(held, key=held.__getitem__)).removeprefix("torch.") if held else None


def _check_known(
    folder: Path, stored: Mapping[str, Stored], quantization: Quantization | None
) -> None:
    # Before the names: a quantized layout also splits and renames tensors, and the list of those
    # would hide what is wrong.
    packed = sorted(name for name, entry in stored.items() if entry.dtype not in FLOATS)
    if packed and quantization is None:
        kinds = ", ".join(sorted({stored[name].dtype for name in packed}))
        raise ValueError(
            f"{folder}: {listed(packed, 'tensor')} in {kinds}: a quantized checkpoint (no "
            f"quantization_config in {CONFIG_FILE}, which says how); copy that file again"
        )


def _check_names(
    folder: Path, stored: Mapping[str, Stored], known: set[str], *, spare: set[str]
) -> None:
    missing = sorted(known - stored.keys())
    extra = sorted(
        name for name in stored.keys() - known - spare if not is_tied_copy(name, known | spare)
    )
    if not missing and not extra:
        return
    faults = [listed(missing, "missing tensor")] if missing else []
    faults += [listed(extra, "unknown tensor")] if extra else []
    raise ValueError(
        f"{folder}: {' and '.join(faults)}; the weights are not those of the network that "
        f"{CONFIG_FILE} describes, or a file was left behind"
    )


def _check_wide(entry: Stored, name: str, shape: torch.Size) -> None:
    if entry.dtype not in FLOATS:
        raise ValueError(
            f"{entry.file}: {name} is in {entry.dtype}; this tensor is read in {', '.join(FLOATS)}"
        )
    _check_shape(entry, name, shape)


def _check_packed(entry: Stored, name: str, like: Tensor) -> None:
    if entry.dtype != HEADER[like.dtype]:
        raise ValueError(
            f"{entry.file}: {name} is in {entry.dtype}; its layout has it in {HEADER[like.dtype]}"
        )
    # The one number of a matrix has a dimension or none.
    if like.numel() > 1 or entry.shape not in ((), (1,)):
        _check_shape(entry, name, like.shape)


def _check_shape(entry: Stored, name: str, shape: torch.Size) -> None:
    if entry.shape != tuple(shape):
        raise ValueError(
            f"{entry.file}: {name} has shape {list(entry.shape)}, expected {list(shape)} from "
            f"{CONFIG_FILE}; one of the two files is of another checkpoint"
        )


def checked(
    file: Path, name: str, raw: Tensor, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """A tensor of a file in `dtype`. ValueError for NaN, infinities and what `dtype` has not."""
    tensor = raw.to(device=device, dtype=dtype)
    try:
        require_finite(tensor, where=f"{file}: {name}", mend="the checkpoint is damaged")
    except ValueError:
        require_finite(raw, where=f"{file}: {name}", mend="the checkpoint is damaged")
        raise ValueError(
            f"{file}: {name} has values beyond the range of {dtype}; load it in bfloat16 or float32"
        ) from None
    return tensor


def merged(
    adapter: Adapter | None,
    native: str,
    file: Path,
    name: str,
    raw: Tensor,
    matrix: int | None = None,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`checked`, with an adapter's change; of a stack the one matrix of that number."""
    tensor = checked(file, name, raw, dtype, device)
    if adapter is not None:
        adapter.merge(native, tensor, matrix)
    return tensor


def _checked_part(file: Path, name: str, raw: Tensor, rows: Rows) -> Tensor:
    part = rows.part.read(raw)
    if part.is_floating_point():
        require_finite(part.float(), where=f"{file}: {name}", mend="the checkpoint is damaged")
    return part


def _round(stored: StoredWeight, raw: Tensor, reading: Callable[..., Tensor]) -> None:
    """A matrix at a time: rounding works in many times what it leaves."""
    if raw.dim() == 2:
        stored.fill(reading(raw))
    else:
        for number, matrix in enumerate(raw):
            stored.fill(reading(matrix, number), number)


def _place(network: Network, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    is_parameter = isinstance(getattr(module, leaf), nn.Parameter)
    setattr(module, leaf, nn.Parameter(tensor) if is_parameter else tensor)

"""A network from a checkpoint's folder.

The network is laid out without memory first; then each tensor is read, checked, cast, moved and
put in its place before the next one is read. Host memory peaks at the model and one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gesso.checkpoint.names import is_tied_copy, published_name
from gesso.checkpoint.shards import Stored, inventory, listed, open_weights
from gesso.config import GenerationConfig, ModelConfig, read_json
from gesso.model.network import Network

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FLOATS = ("F64", "F32", "F16", "BF16")


def read_config(folder: Path) -> ModelConfig:
    """config.json of a checkpoint. ValueError names what is missing or unfit."""
    return ModelConfig.parse(read_json(folder / CONFIG_FILE))


def read_generation_config(folder: Path) -> GenerationConfig:
    """generation_config.json of a checkpoint; without the file, the defaults and the model's ids
    of end tokens and padding."""
    file = folder / GENERATION_FILE
    raw = read_json(file) if file.is_file() else {}
    return GenerationConfig.parse(raw, model=read_config(folder))


def load_network(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Network:
    """The network of a checkpoint, whole and on `device`.

    dtype: float32, bfloat16 or float16; None takes the one that config.json names. Second copies
    of tied tensors are ignored. ValueError, before any weight is read, for a folder whose files
    or tensors are not those of the network that its config.json describes; while reading, for
    damaged data and for NaN or infinite weights. Quantized checkpoints are not read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; a checkpoint is a folder with {CONFIG_FILE}")
    config = read_config(folder)
    dtype = _chosen_dtype(folder, config, dtype)
    with torch.device("meta"):
        network = Network(config)
    native = {published_name(name): name for name in network.state_dict()}
    stored = inventory(folder)
    _check_dtypes(folder, stored)
    _check_names(folder, stored, set(native))
    _check_shapes(stored, {name: network.state_dict()[native[name]].shape for name in native})
    for file in sorted({stored[name].file for name in native}):
        with open_weights(file) as weights:
            # In the order of the file: one pass over the disk.
            for name in weights.offset_keys():
                if name in native:
                    tensor = _convert(file, name, weights.get_tensor(name), dtype, device)
                    _place(network, native[name], tensor)
    assert not any(t.is_meta for t in network.state_dict().values()), "a tensor was left out"
    return network


def require_finite(tensor: Tensor, *, where: str, mend: str) -> None:
    """ValueError when a tensor holds NaN or an infinity. One pass, and no copy of the tensor."""
    # NaN wins over every number in both ends of the range.
    ends = torch.stack(torch.aminmax(tensor))
    if not bool(ends.isfinite().all()):
        raise ValueError(f"{where}: holds NaN or infinite values; {mend}")


def _chosen_dtype(folder: Path, config: ModelConfig, dtype: torch.dtype | None) -> torch.dtype:
    expected = f"expected one of {', '.join(DTYPES)}"
    if dtype is None:
        if config.dtype not in DTYPES:
            raise ValueError(f"{folder / CONFIG_FILE}: dtype is {config.dtype!r}; {expected}")
        return DTYPES[config.dtype]
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype}; {expected}")
    return dtype


def _check_dtypes(folder: Path, stored: Mapping[str, Stored]) -> None:
    # Before the names: a quantized layout also splits and renames tensors, and the list of those
    # would hide what is wrong.
    packed = sorted(name for name, entry in stored.items() if entry.dtype not in _FLOATS)
    if not packed:
        return
    method = (read_json(folder / CONFIG_FILE).get("quantization_config") or {}).get("quant_method")
    how = f"quant_method {method!r}" if method else "no quant_method in config.json"
    kinds = ", ".join(sorted({stored[name].dtype for name in packed}))
    raise ValueError(
        f"{folder}: {listed(packed, 'tensor')} in {kinds}: a quantized checkpoint ({how}), which "
        "is not read yet; use the one in bfloat16"
    )


def _check_names(folder: Path, stored: Mapping[str, Stored], known: set[str]) -> None:
    missing = sorted(known - stored.keys())
    extra = sorted(name for name in stored.keys() - known if not is_tied_copy(name, known))
    if not missing and not extra:
        return
    faults = [listed(missing, "missing tensor")] if missing else []
    faults += [listed(extra, "unknown tensor")] if extra else []
    raise ValueError(
        f"{folder}: {' and '.join(faults)}; the weights are not those of the network that "
        f"{CONFIG_FILE} describes, or a file was left behind"
    )


def _check_shapes(stored: Mapping[str, Stored], shapes: Mapping[str, torch.Size]) -> None:
    for name, shape in shapes.items():
        if stored[name].shape != tuple(shape):
            raise ValueError(
                f"{stored[name].file}: {name} has shape {list(stored[name].shape)}, expected "
                f"{list(shape)} from {CONFIG_FILE}; one of the two files is of another checkpoint"
            )


def _convert(
    file: Path, name: str, raw: Tensor, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    tensor = raw.to(device=device, dtype=dtype)
    try:
        require_finite(tensor, where=f"{file}: {name}", mend="the checkpoint is damaged")
    except ValueError:
        require_finite(raw, where=f"{file}: {name}", mend="the checkpoint is damaged")
        raise ValueError(
            f"{file}: {name} has values beyond the range of {dtype}; load it in bfloat16 or float32"
        ) from None
    return tensor


def _place(network: Network, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    is_parameter = isinstance(getattr(module, leaf), nn.Parameter)
    setattr(module, leaf, nn.Parameter(tensor) if is_parameter else tensor)

"""What config.json says of weights in few bits, read and written.

It says which formats are there, and a format that is not known is refused by what it says. Which
module has which is seen from the tensors themselves: rules that match modules by name or class are
written for other readers' modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gesso.checkpoint.layouts import CT_FP8, CT_INT4, CT_NVFP4, MODELOPT_NVFP4, Layout
from gesso.checkpoint.names import module_pattern
from gesso.values import read_json

CONFIG_FILE = "config.json"
MODELOPT_FILE = "hf_quant_config.json"
KEY = "quantization_config"

_COMPRESSED = (CT_FP8, CT_NVFP4, CT_INT4)
# What tells one format of weights from another.
_TELLING = ("num_bits", "type", "strategy", "symmetric")
# The other linear maps, as other readers know them.
_WIDE = ["lm_head", r"re:.*\brouter\b.*", r"re:.*vision_tower.*", r"re:.*embed_vision.*"]


class Quantization(NamedTuple):
    """Who defines the layout ("compressed-tensors" or "modelopt"), and what is stored in it."""

    method: str
    layouts: tuple[Layout, ...]


def read_quantization(folder: Path) -> Quantization | None:
    """None for a checkpoint that says nothing of few bits. ValueError for what is not read here."""
    file, key = folder / CONFIG_FILE, KEY
    raw = read_json(file).get(key)
    if not raw and (folder / MODELOPT_FILE).is_file():
        file, key = folder / MODELOPT_FILE, "quantization"
        raw = read_json(file).get(key)
    if not raw:
        return None
    where = f"{file}: {key}"
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: expected an object, got {raw!r:.80}")
    match "modelopt" if file.name == MODELOPT_FILE else raw.get("quant_method"):
        case "compressed-tensors":
            return Quantization("compressed-tensors", _compressed(raw, where))
        case "modelopt":
            return Quantization("modelopt", _modelopt(raw, where))
        case other:
            raise ValueError(
                f"{where}: quant_method is {other!r}; read are 'compressed-tensors' and 'modelopt'"
            )


def quantization_config(modules: Iterable[tuple[str, Layout]]) -> dict[str, Any]:
    """compressed-tensors' entry of config.json for published modules, each in its layout."""
    groups: list[tuple[Layout, list[str]]] = []
    for module, layout in modules:
        targets = next((t for known, t in groups if known.weights == layout.weights), None)
        if targets is None:
            targets = []
            groups.append((layout, targets))
        target = f"re:{module_pattern(module)}"
        if target not in targets:
            targets.append(target)
    storages = sorted({layout.storage for layout, _ in groups})
    return dict(
        quant_method="compressed-tensors",
        quantization_status="compressed",
        format=storages[0] if len(storages) == 1 else "mixed-precision",
        config_groups={
            f"group_{number}": dict(
                targets=targets,
                weights=dict(layout.weights),
                input_activations=None if layout.inputs is None else dict(layout.inputs),
                output_activations=None,
                format=layout.storage,
            )
            for number, (layout, targets) in enumerate(groups)
        },
        ignore=_WIDE,
        kv_cache_scheme=None,
    )


def _compressed(raw: Mapping[str, Any], where: str) -> tuple[Layout, ...]:
    for key in ("transform_config", "sparsity_config"):
        change = raw.get(key)
        if change and not (isinstance(change, dict) and change.get("format") == "dense"):
            raise ValueError(f"{where}.{key}: got {raw[key]!r}; only plain weights are read")
    groups = raw.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ValueError(f"{where}.config_groups: got {groups!r}; expected the groups of weights")
    found = []
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, dict) else None
        told = weights if isinstance(weights, dict) else {}
        layout = next((each for each in _COMPRESSED if _fits(told, each)), None)
        if layout is None:
            known = "; ".join(f"{each.name} ({_described(each.weights)})" for each in _COMPRESSED)
            raise ValueError(
                f"{where}.config_groups.{name}: weights are {_described(weights or group)}; read "
                f"are {known}"
            )
        if layout not in found:
            found.append(layout)
    return tuple(found)


def _fits(weights: Mapping[str, Any], layout: Layout) -> bool:
    own = {**layout.weights}
    # A row that is one group has a scale a channel.
    if own["strategy"] == "group" and weights.get("strategy") == "channel":
        own["strategy"] = "channel"
    keys = [*_TELLING, *(["group_size"] if "group_size" in own else [])]
    return all(weights.get(key) == own[key] for key in keys)


def _described(weights: Any) -> str:
    if not isinstance(weights, Mapping):
        return repr(weights)
    return ", ".join(
        f"{key} {weights[key]}" for key in (*_TELLING, "group_size") if weights.get(key) is not None
    )


def _modelopt(raw: Mapping[str, Any], where: str) -> tuple[Layout, ...]:
    algorithm = raw.get("quant_algo")
    if algorithm != "NVFP4":
        raise ValueError(f"{where}: quant_algo is {algorithm!r}; read is 'NVFP4'")
    if raw.get("group_size", 16) != 16:
        raise ValueError(f"{where}: group_size is {raw['group_size']!r}; NVFP4 has 16")
    return (MODELOPT_NVFP4,)

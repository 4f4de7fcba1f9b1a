"""LoRA adapters in PEFT's files and names.

PEFT sees the encoder and the denoiser of the published model as two modules whose weights are
tied, and keeps an adapter for each; here they are one. So everything of a layer is written twice,
and read only when both copies agree: then one network says what PEFT's two say. (Merged by PEFT,
the tied weights would take the change twice; merged here they take it once.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from gesso.checkpoint.names import published_name
from gesso.checkpoint.read import FLOATS, require_finite
from gesso.checkpoint.shards import Stored, header, listed, open_weights
from gesso.config import ModelConfig
from gesso.files import replacing_in
from gesso.model.lora import LoraConfig, adapted_weights, merge_change
from gesso.model.network import Network
from gesso.values import naming, number, read_json, whole

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_WRAPPED = "base_model.model."
_STACKS = r"model\.(decoder|encoder\.language_model)"
_DECODER, _ENCODER = "model.decoder.layers.", "model.encoder.language_model.layers."
# The modules of `TARGETS` by their published names, for PEFT's regular expression.
_MODULES = {
    "attention": r"layers\.\d+\.self_attn\.[qkvo]_proj",
    "mlp": r"layers\.\d+\.mlp\.(gate|up|down)_proj",
    "router": r"layers\.\d+\.router\.proj",
    "self_conditioning": r"self_conditioning\.(gate|up|down)_proj",
}
# PEFT wraps the experts once for each tensor, in their order: the first wrapper lies inside.
_EXPERTS = {"gate_up_proj": "base_layer."}
# Options of PEFT's that change what an adapter computes, and the value that changes nothing.
_PLAIN = {
    "use_dora": False,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "layer_replication": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "use_bdlora": None,
    "arrow_config": None,
    "kasa_config": None,
}
# What PEFT may draw an adapter's factors from without changing the base under it.
_INITS = (None, True, False, "gaussian", "eva", "orthogonal")


class Factors(NamedTuple):
    """a (..., r, in) and b (..., out, r); experts have a first dimension E."""

    a: Tensor
    b: Tensor


def save_adapter(
    tensors: Mapping[str, Tensor], folder: Path, *, config: LoraConfig, base: str
) -> None:
    """Write an adapter that this package and PEFT read.

    tensors: the factors as an adapted network names them, `<weight>_a` and `<weight>_b`. base:
    the checkpoint that they belong to, noted for the reader. An adapter that is there is replaced:
    the folder holds the old one, the new one or none that is read, and then the new one lies
    beside it.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        require_finite(tensor, where=name, mend="such an adapter is not saved")
        weight, factor = name[:-2], name[-1]
        for key in _keys(weight, factor):
            stored[key] = _flat(tensor, factor).detach().cpu().contiguous().clone()
    text = json.dumps(_peft_config(config, base), indent=2) + "\n"
    # Without its configuration no adapter is read.
    with replacing_in(folder, entries=(CONFIG_FILE,)) as partial:
        save_file(stored, partial / WEIGHTS_FILE, metadata={"format": "pt"})
        (partial / CONFIG_FILE).write_text(text, encoding="utf-8")


class Adapter:
    """One that was read: by native name, the changes of the weights that it has any for."""

    def __init__(self, factors: Mapping[str, Factors], *, scale: float) -> None:
        self._factors = factors
        self._scale = scale

    def merge(self, name: str, weight: Tensor, matrix: int | None = None) -> None:
        """Add the change to a wide weight, in place and rounded once; of a stack to the one matrix
        of that number, where `weight` is that."""
        if name in self._factors:
            a, b = self._factors[name]
            if matrix is not None:
                a, b = a[matrix], b[matrix]
            merge_change(weight, a, b, scale=self._scale)


def read_adapter(folder: Path, model: ModelConfig) -> Adapter:
    """ValueError when the files are not a plain LoRA adapter for such a network."""
    with torch.device("meta"):
        network = Network(model)
    config = _read_config(folder)
    weights = adapted_weights(network, config)
    _check_header(folder, weights, rank=config.rank)
    return Adapter(_read_factors(folder / WEIGHTS_FILE, weights), scale=config.scale)


def merge_adapter(network: Network, folder: Path) -> None:
    """Add an adapter's change to the network's weights, in place. ValueError, and the network
    untouched, as in `read_adapter`."""
    adapter = read_adapter(folder, network.config)
    for name, weight in network.state_dict().items():
        adapter.merge(name, weight)


def _keys(weight: str, factor: str) -> list[str]:
    """PEFT's names of a weight's factor "a" or "b": of a layer's both, the denoiser's and the
    encoder's."""
    path, _, leaf = published_name(weight).rpartition(".")
    inner = _EXPERTS.get(leaf, "")
    key = f"{path}.{inner}lora_{factor.upper()}.weight"
    twin = [key.replace(_DECODER, _ENCODER)] if key.startswith(_DECODER) else []
    return [_WRAPPED + name for name in (key, *twin)]


def _flat(factor: Tensor, which: str) -> Tensor:
    """PEFT's shape: of experts a is (E r, in) and b (out, r E), where the expert varies fastest."""
    if factor.dim() == 2:
        return factor
    return factor.flatten(0, 1) if which == "a" else factor.permute(1, 2, 0).flatten(1)


def _unflat(factor: Tensor, which: str, weight: Tensor) -> Tensor:
    if weight.dim() == 2:
        return factor
    experts = len(weight)
    if which == "a":
        return factor.unflatten(0, (experts, -1))
    return factor.unflatten(1, (-1, experts)).permute(2, 0, 1)


def _peft_config(config: LoraConfig, base: str) -> dict[str, Any]:
    modules = "|".join(_MODULES[target] for target in config.targets if target in _MODULES)
    tensors = ["experts.gate_up_proj", "experts.down_proj"]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": rf"{_STACKS}\.({modules})" if modules else None,
        "target_parameters": tensors if "experts" in config.targets else None,
    }


def _read_config(folder: Path) -> LoraConfig:
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"{folder}: no {CONFIG_FILE}; an adapter is a folder as PEFT writes it")
    raw = read_json(file)
    if raw.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type is {raw.get('peft_type')!r}; only LORA is read")
    for option, plain in _PLAIN.items():
        if (raw.get(option) or plain) != plain:
            raise ValueError(f"{file}: {option} is {raw[option]!r}; only plain LoRA is read")
    if (init := raw.get("init_lora_weights")) not in _INITS:
        raise ValueError(
            f"{file}: init_lora_weights is {init!r}, which changes the base too; save the adapter "
            "with PEFT's path_initial_model_for_weight_conversion, or train it from another init"
        )
    with naming(file):
        rank = whole("r", raw.get("r"), low=1)
        alpha = number("lora_alpha", raw.get("lora_alpha"))
    if raw.get("use_rslora"):
        alpha = alpha * rank**0.5
    return LoraConfig(rank=rank, alpha=alpha)


def _check_header(folder: Path, weights: Mapping[str, Tensor], *, rank: int) -> None:
    """Check the file's header against the weights that it may change."""
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise ValueError(f"{folder}: no {WEIGHTS_FILE}; pickled adapters are not read")
    stored = header(file)
    known = {key for name in weights for factor in "ab" for key in _keys(name, factor)}
    if unknown := sorted(stored.keys() - known):
        raise ValueError(
            f"{file}: {listed(unknown, 'unknown tensor')}; an adapter changes linear maps of the "
            "text layers of the checkpoint that it was trained on, and nothing else"
        )
    for name in _changed(stored, weights):
        *experts, out, inner = weights[name].shape
        rows = math.prod(experts) * rank
        for factor, shape in (("a", (rows, inner)), ("b", (out, rows))):
            for key in _keys(name, factor):
                _check(file, key, stored.get(key), shape)


def _check(file: Path, key: str, entry: Stored | None, shape: tuple[int, int]) -> None:
    if entry is None:
        raise ValueError(
            f"{file}: no {key}; encoder and denoiser share their weights, and an adapter has to "
            "change both"
        )
    if entry.dtype not in FLOATS:
        raise ValueError(f"{file}: {key} is in {entry.dtype}; read are {', '.join(FLOATS)}")
    if entry.shape != shape:
        raise ValueError(
            f"{file}: {key} has shape {list(entry.shape)}, expected {list(shape)}; "
            "the adapter is of another checkpoint"
        )


def _changed(stored: Iterable[str], weights: Iterable[str]) -> list[str]:
    keys = set(stored)
    return [name for name in weights if any(key in keys for f in "ab" for key in _keys(name, f))]


def _read_factors(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Factors]:
    """By the weight that they change; of a file whose header is as it should be. All is checked
    before any is given."""
    with open_weights(file) as opened:
        stored = {name: opened.get_tensor(name) for name in opened.offset_keys()}
    for name, tensor in stored.items():
        require_finite(tensor, where=f"{file}: {name}", mend="the adapter is damaged")
    return {
        name: Factors(*(_factor(file, stored, name, which, weights[name]) for which in "ab"))
        for name in _changed(stored, weights)
    }


def _factor(
    file: Path, stored: Mapping[str, Tensor], name: str, which: str, weight: Tensor
) -> Tensor:
    keys = _keys(name, which)
    first, *others = (stored[key] for key in keys)
    if any(not torch.equal(first, other) for other in others):
        raise ValueError(
            f"{file}: {keys[0]} is not equal to {keys[1]}; encoder and denoiser share their "
            "weights here, and with them the adapter: train it with the two tied"
        )
    return _unflat(first, which, weight)

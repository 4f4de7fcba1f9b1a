"""The network that a recipe begins with."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gesso.checkpoint import load_network, read_config, read_generation_config, resolve
from gesso.checkpoint.schemes import read_quantization
from gesso.config import ModelConfig
from gesso.environment import fast_dtype, pick_device
from gesso.generation_config import GenerationConfig
from gesso.model.init import new_network
from gesso.model.lora import add_adapter
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network
from gesso.processor import Processor, Tokenizer
from gesso.training.config import TrainConfig


class Start(NamedTuple):
    """The network, and its base's fingerprint where it has one."""

    network: Network
    base: str | None


def start(config: TrainConfig) -> Start:
    """Random, or the base's weights, with the adapter and in the form that the recipe asks for."""
    dtype, device = working_dtype(config), pick_device(config.device)
    if config.base is None:
        assert config.model is not None
        network = new_network(config.model, seed=config.seed).to(device=device, dtype=dtype)
        return Start(network, None)
    if config.model is not None:
        _check_shape(config.base, config.model)
    if config.lora is None and base_in_few_bits(config):
        raise ValueError(
            f"base: the weights of {config.base} are in few bits, which are not trained; set lora "
            "to train an adapter on them, or begin from the wide checkpoint"
        )
    samples: dict[str, Tensor] = {}
    network = load_network(
        resolve(config.base),
        dtype=dtype,
        device=device,
        quantize=None if config.quantize is None else SCHEMES[config.quantize],
        on_tensor=lambda name, tensor: samples.update({name: sample(tensor)}),
    )
    if config.model is not None:
        network.config = replace(network.config, canvas_length=config.model.canvas_length)
    if config.lora is not None:
        add_adapter(network, config.lora, seed=config.seed)
    return Start(network, fingerprint(samples))


def skeleton(config: TrainConfig) -> Network:
    """The same without its values, on the meta device."""
    with torch.device("meta"):
        network = Network(shape_of(config)).to(working_dtype(config))
    if config.quantize is not None:
        quantize_network(network, SCHEMES[config.quantize])
    if config.lora is not None:
        add_adapter(network, config.lora, seed=config.seed)
    return network


def hollow(network: Network) -> Network:
    """The same modules with their tensors on the meta device."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    empty = {
        id(t): nn.Parameter(t.to("meta"), t.requires_grad)
        if isinstance(t, nn.Parameter)
        else t.to("meta")
        for t in tensors
    }
    return copy.deepcopy(network, empty)


def working_dtype(config: TrainConfig) -> torch.dtype:
    """Of the weights that the products are made with."""
    if config.dtype == "auto":
        return fast_dtype(pick_device(config.device))
    dtype = getattr(torch, config.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def shape_of(config: TrainConfig) -> ModelConfig:
    """The recipe's own, or its base's, of which only the description is fetched."""
    if config.model is not None:
        return config.model
    assert config.base is not None
    return read_config(resolve(config.base, weights=False))


def fingerprint(samples: Mapping[str, Tensor]) -> str:
    """The same for the same base, in whatever dtype it is held, by a `sample` of each of its
    tensors."""
    known = blake2b(digest_size=8)
    for name, row in sorted(samples.items()):
        known.update(name.encode() + row.view(torch.uint8).numpy().tobytes())
    return known.hexdigest()


def sample(tensor: Tensor) -> Tensor:
    """A row from the middle of a tensor, on the CPU; in bfloat16, or in the few bits it is in."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor.reshape(1, -1)
    row = rows[len(rows) // 2].cpu().clone()
    return row.bfloat16() if row.is_floating_point() and row.itemsize > 1 else row


def check_tokenizer(config: TrainConfig, processor: Processor, shape: ModelConfig) -> None:
    """ValueError when the processor's ids are not the network's."""
    ids = processor.tokenizer.vocabulary
    if (highest := max(ids.values())) >= shape.text.vocab_size:
        raise ValueError(
            f"processor: {config.processor} has ids up to {highest:,}, and the network "
            f"{shape.text.vocab_size:,}; give the tokenizer that belongs to it"
        )
    folder = None if config.base is None else resolve(config.base, weights=False)
    if folder is None or not (folder / "tokenizer.json").exists():
        return
    if Tokenizer.load(folder).vocabulary != ids:
        raise ValueError(
            f"processor: {config.processor} has other tokens than the base {config.base}; "
            "give the base's own"
        )


def base_in_few_bits(config: TrainConfig) -> bool:
    """Whether the base's files say so."""
    if config.base is None:
        return False
    return read_quantization(resolve(config.base, weights=False)) is not None


def generation_of(config: TrainConfig) -> GenerationConfig:
    """The recipe's own generation defaults, or its base's, or the published ones."""
    if config.generation is not None:
        return config.generation
    if config.base is not None:
        return read_generation_config(resolve(config.base, weights=False))
    assert config.model is not None
    return GenerationConfig(
        eos_token_ids=config.model.eos_token_ids, pad_token_id=config.model.text.pad_token_id
    )


def _check_shape(base: str | Path, model: ModelConfig) -> None:
    """ValueError when a base is not what the recipe says that it is."""
    there = read_config(resolve(base, weights=False))
    other = [
        field.name
        for field in fields(ModelConfig)
        if field.name not in ("canvas_length", "dtype")
        and getattr(there, field.name) != getattr(model, field.name)
    ]
    if other:
        raise ValueError(
            f"base: {base} has not the shape that the recipe's model says ({', '.join(other)}); "
            "correct the recipe, or leave model out"
        )

"""`gesso info`: what a checkpoint is. Its weights are counted, not read, and need not be there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gesso.cli.options import Commands, print_json

if TYPE_CHECKING:
    from gesso.config import ModelConfig


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "info",
        parents=parents,
        help="describe a checkpoint",
        allow_abbrev=False,
        description="Describe a checkpoint; its weights need not be there.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("checkpoint", nargs="?", metavar="M", help="as --model")
    which.add_argument("--model", default="tiny", metavar="M", help="as in gesso generate")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    about = describe(args.model if args.checkpoint is None else args.checkpoint)
    if args.json:
        print_json(about)
    else:
        from gesso.terminal.tables import print_info

        print_info(about)
    return 0


def describe(source: str) -> dict[str, Any]:
    """Shapes, parameters and defaults of a checkpoint, JSON-ready. bytes: of the
    weights; None where they are not. quantization: who defines the layout of weights in few bits,
    and their formats; None where there are none."""
    from gesso.checkpoint import read_config, read_generation_config, resolve
    from gesso.checkpoint.schemes import read_quantization
    from gesso.processor.chat import ChatTemplate

    folder = resolve(source, weights=False)
    config, quantized = read_config(folder), read_quantization(folder)
    text, full = config.text, config.text.layer_types.count("full_attention")
    return dict(
        model=source,
        folder=str(folder),
        dtype=config.dtype,
        canvas_length=config.canvas_length,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        feed_forward=text.intermediate_size,
        layers=dict(
            total=text.num_layers,
            sliding=text.num_layers - full,
            full=full,
            window=text.sliding_window,
            types=list(text.layer_types),
        ),
        attention=dict(
            heads=text.num_attention_heads,
            sliding_kv_heads=text.num_key_value_heads,
            sliding_head_dim=text.head_dim,
            full_kv_heads=text.num_global_key_value_heads,
            full_head_dim=text.global_head_dim,
        ),
        experts=dict(
            total=text.num_experts,
            active=text.top_k_experts,
            feed_forward=text.moe_intermediate_size,
        ),
        parameters=_parameters(config),
        quantization=quantized
        and dict(method=quantized.method, formats=[layout.name for layout in quantized.layouts]),
        bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")) or None,
        generation=asdict(read_generation_config(folder)),
        chat_template=ChatTemplate.load(folder, variables={}) is not None,
        vision=config.vision is not None,
    )


def _parameters(config: ModelConfig) -> dict[str, int]:
    """total, in experts, and active: what one token passes through."""
    import torch

    from gesso.model.network import Network, parameter_count

    with torch.device("meta"):
        network = Network(config)
    total = parameter_count(network)
    experts = sum(p.numel() for name, p in network.named_parameters() if ".experts." in name)
    text = config.text
    active = total - experts + experts * text.top_k_experts // text.num_experts
    return dict(total=total, experts=experts, active=active)

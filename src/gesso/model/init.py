"""Random weights for training from nothing."""

from __future__ import annotations

import torch
from torch import nn

from gesso.config import ModelConfig
from gesso.model.attention import Attention
from gesso.model.layer import Layer
from gesso.model.moe import Experts, Router
from gesso.model.network import Network
from gesso.model.norm import RMSNorm
from gesso.model.vision import PatchEmbedder, VisionAttention


@torch.no_grad()
def new_network(
    config: ModelConfig,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Network:
    """A network with normal weights of deviation 1/sqrt(inputs), made where it is to stay.

    The embedding is drawn with deviation 1/sqrt(M): scaled by sqrt(M) it enters the stack with
    deviation 1, and as the head it gives logits of about 1. Three kinds of norm start below or
    above 1, because a norm fixes the size of what passes through it, whatever the weights before:
    q and k norms at D^-1/4, so that scores start with deviation 1 (there is no 1/sqrt(D)); the
    norms behind a branch at 1/sqrt(2 layers), so that all branches together weigh as much as the
    embedding; the router's scale at sqrt(M), which undoes its M^-1/2.
    """
    wide = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = Network(config)
    finally:
        torch.set_default_dtype(wide)
    generator = torch.Generator(device).manual_seed(seed)

    def fill(weight: torch.Tensor, inputs: int) -> None:
        weight.normal_(0.0, inputs**-0.5, generator=generator)

    for module in network.modules():
        if isinstance(module, nn.Linear):
            fill(module.weight, module.in_features)
        elif isinstance(module, nn.Embedding):
            fill(module.weight, module.embedding_dim)
        elif isinstance(module, Experts):
            fill(module.gate_up, module.gate_up.shape[2])
            fill(module.down, module.down.shape[2])
        elif isinstance(module, PatchEmbedder):
            module.positions.normal_(0.0, 0.02, generator=generator)
        elif isinstance(module, Attention | VisionAttention):
            _fill_norms(module.head_dim**-0.25, module.q_norm, module.k_norm)
        elif isinstance(module, Router):
            module.scale.fill_(len(module.scale) ** 0.5)
        elif isinstance(module, Layer):
            branch = (2 * config.text.num_layers) ** -0.5
            _fill_norms(branch, module.post_attention_norm, module.post_norm)
    return network


def _fill_norms(value: float, *norms: RMSNorm) -> None:
    for norm in norms:
        assert norm.weight is not None
        norm.weight.fill_(value)

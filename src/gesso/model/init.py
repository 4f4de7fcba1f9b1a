"""Random weights for training from nothing."""

from __future__ import annotations

import torch
from torch import nn

from gesso.config import ModelConfig
from gesso.model.moe import Experts
from gesso.model.network import Network
from gesso.model.vision import PatchEmbedder


@torch.no_grad()
def new_network(config: ModelConfig, *, seed: int) -> Network:
    """A float32 network with normal weights of deviation 1/sqrt(inputs), norms and scalars 1.

    The embedding is drawn with deviation 1/sqrt(M): scaled by sqrt(M) it enters the stack with
    deviation 1, and as the head it gives logits of about 1.
    """
    network = Network(config)
    generator = torch.Generator().manual_seed(seed)

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
    return network

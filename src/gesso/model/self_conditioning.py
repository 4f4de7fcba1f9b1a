"""Feeds what the last step believed back into the canvas (model-spec §5)."""

from __future__ import annotations

from torch import Tensor, nn

from gesso.config import TextConfig
from gesso.model.mlp import MLP
from gesso.model.norm import RMSNorm


class SelfConditioning(nn.Module):
    """x -> rms(x + mlp(norm(soft))).

    The outer norm runs also at the first step, when there is no soft embedding (trap 11).
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.pre_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)
        self.post_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, weighted=False)

    def forward(self, x: Tensor, soft: Tensor | None) -> Tensor:
        """x (B, L, M) token embeddings, soft (B, L, M) or None for zero -> (B, L, M)."""
        if soft is not None:
            x = x + self.mlp(self.pre_norm(soft))
        return self.post_norm(x)

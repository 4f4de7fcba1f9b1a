"""One transformer layer, the same class and the same weights for encoding and denoising.

The two modes differ in what a query may look at (`attend`) and in the scalar at the end; that is
all that is handed in (model-spec §3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gesso.config import TextConfig
from gesso.kernels.rope import Rotation
from gesso.model.attention import Attend, Attention
from gesso.model.mlp import MLP
from gesso.model.moe import Experts, Router
from gesso.model.norm import RMSNorm


class Layer(nn.Module):
    encode_scalar: Tensor
    denoise_scalar: Tensor

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

        self.attention_norm = norm()
        self.attention = Attention(config, layer)
        self.post_attention_norm = norm()
        self.mlp_norm = norm()
        self.mlp = MLP(config.hidden_size, config.intermediate_size)
        self.post_mlp_norm = norm()
        self.router = Router(config)
        self.moe_norm = norm()
        self.experts = Experts(config)
        self.post_moe_norm = norm()
        self.post_norm = norm()
        # Two stored tensors, not tied (trap 8): encoding uses one, denoising the other.
        self.register_buffer("encode_scalar", torch.ones(1))
        self.register_buffer("denoise_scalar", torch.ones(1))

    def forward(
        self, x: Tensor, turn: Rotation, attend: Attend, scalar: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, n, M) -> the same shape, and the keys and values (B, K, S, D) it looked at."""
        out, keys, values = self.attention(self.attention_norm(x), turn, attend)
        x = x + self.post_attention_norm(out)
        # The dense and the sparse branch run beside each other from the same residual (trap 7).
        dense = self.post_mlp_norm(self.mlp(self.mlp_norm(x)))
        flat = x.flatten(0, 1)  # (T, M)
        sparse = self.experts(self.moe_norm(flat), *self.router(flat)).view_as(x)
        x = x + self.post_norm(dense + self.post_moe_norm(sparse))
        return x * scalar, keys, values

"""The image encoder and its projector (model-spec §7).

One image at a time, without padding: nothing is masked, and a result cannot depend on what else
is in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gesso.config import RopeConfig, TextConfig, VisionConfig
from gesso.kernels.attention import attention
from gesso.kernels.rope import Rotation, inverse_frequencies, rotate, rotation
from gesso.model.mlp import MLP
from gesso.model.norm import RMSNorm


class PatchEmbedder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.input = nn.Linear(3 * config.patch_size**2, config.hidden_size, bias=False)
        self.positions = nn.Parameter(
            torch.zeros(2, config.position_embedding_size, config.hidden_size)
        )

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """patches (P, 3 p p) in [0, 1], positions (P, 2) as (x, y) -> (P, hidden)."""
        x = self.input((2 * (patches - 0.5)).to(self.input.weight.dtype))
        return x + self.positions[0, positions[:, 0]] + self.positions[1, positions[:, 1]]


class VisionAttention(nn.Module):
    """Every patch sees every patch; two rotations, one for each axis."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        width = self.heads * self.head_dim
        self.q = nn.Linear(config.hidden_size, width, bias=False)
        self.k = nn.Linear(config.hidden_size, width, bias=False)
        self.v = nn.Linear(config.hidden_size, width, bias=False)
        self.o = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.v_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps, weighted=False)

    def forward(self, x: Tensor, turns: tuple[Rotation, Rotation]) -> Tensor:
        """x (1, P, hidden) -> (1, P, hidden)."""
        split = (self.heads, self.head_dim)
        query = _rotate_axes(self.q_norm(self.q(x).unflatten(-1, split)), turns)
        key = _rotate_axes(self.k_norm(self.k(x).unflatten(-1, split)), turns)
        value = self.v_norm(self.v(x).unflatten(-1, split))
        return self.o(attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)))


class VisionLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

        self.attention_norm, self.post_attention_norm = norm(), norm()
        self.attention = VisionAttention(config)
        self.mlp_norm, self.post_mlp_norm = norm(), norm()
        self.mlp = MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, turns: tuple[Rotation, Rotation]) -> Tensor:
        x = x + self.post_attention_norm(self.attention(self.attention_norm(x), turns))
        return x + self.post_mlp_norm(self.mlp(self.mlp_norm(x)))


class VisionTower(nn.Module):
    """Patches of one image -> pooled soft tokens in the tower's width."""

    std_bias: Tensor
    std_scale: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = PatchEmbedder(config)
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))
        if config.standardize:  # else the checkpoint has no such tensors
            self.register_buffer("std_bias", torch.zeros(config.hidden_size))
            self.register_buffer("std_scale", torch.ones(config.hidden_size))

    def encode(self, patches: Tensor, positions: Tensor) -> Tensor:
        """(P, 3 p p) pixels in [0, 1], (P, 2) int64 as (x, y) -> (P, hidden)."""
        x = self.patches(patches, positions)[None]
        axis = inverse_frequencies(
            RopeConfig(theta=self.config.rope_theta), self.config.head_dim // 2, x.device
        )
        turns = (
            rotation(positions[None, :, 0], axis, x.dtype),
            rotation(positions[None, :, 1], axis, x.dtype),
        )
        for layer in self.layers:
            x = layer(x, turns)
        return x[0]

    def pool(self, x: Tensor, positions: Tensor) -> Tensor:
        """Mean over k x k cells, row by row, in float32, then standardised: (P, h) -> (n, h)."""
        k = self.config.pooling_kernel_size
        columns = int(positions[:, 0].max()) // k + 1
        cell = positions[:, 1] // k * columns + positions[:, 0] // k  # (P,)
        pooled = torch.zeros(int(cell.max()) + 1, x.shape[1], dtype=torch.float32, device=x.device)
        pooled = pooled.index_add(0, cell, x.float()) * (self.config.hidden_size**0.5 / k**2)
        if self.config.standardize:
            pooled = (pooled - self.std_bias.float()) * self.std_scale.float()
        return pooled.to(x.dtype)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        return self.pool(self.encode(patches, positions), positions)


class Projector(nn.Module):
    """Soft tokens from the tower's width to the text stack's: (n, vision) -> (n, M)."""

    def __init__(self, vision: VisionConfig, text: TextConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(vision.hidden_size, eps=vision.rms_norm_eps, weighted=False)
        self.proj = nn.Linear(vision.hidden_size, text.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(x))


def _rotate_axes(x: Tensor, turns: tuple[Rotation, Rotation]) -> Tensor:
    """The first half of the dimensions turns with x, the second with y. x (1, P, H, D)."""
    along_x, along_y = x.chunk(2, dim=-1)
    return torch.cat((rotate(along_x, turns[0]), rotate(along_y, turns[1])), dim=-1)

"""Attention of one layer, for both modes: what it may look at is handed in.

Full layers have no value projection: their values are the unweighted norm of the raw key
projection, before the key norm and the rotation (model-spec §3, trap 3).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from gesso.config import TextConfig
from gesso.kernels.rope import Rotation, rotate
from gesso.model.norm import RMSNorm


class Attended(NamedTuple):
    """out (B, n, H * D); keys and values (B, K, S, D) that were looked at, old and new."""

    out: Tensor
    keys: Tensor
    values: Tensor


class Attend(Protocol):
    """One pass's access to the cache: joins new keys and values with the old, and attends.

    It only reads: a layer gives back the keys and values that it made, so that all of what
    depends on its weights is among its results.
    """

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Attended:
        """query (B, H, n, D), key and value (B, K, n, D) of the new tokens."""
        ...


class Attention(nn.Module):
    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.kv_heads, self.head_dim = config.heads(layer)
        self.heads = config.num_attention_heads
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.q = nn.Linear(hidden, self.heads * self.head_dim, bias=False)
        self.k = nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        self.v = (
            None
            if config.is_full(layer)
            else nn.Linear(hidden, self.kv_heads * self.head_dim, bias=False)
        )
        self.o = nn.Linear(self.heads * self.head_dim, hidden, bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps=eps)
        self.k_norm = RMSNorm(self.head_dim, eps=eps)
        self.v_norm = RMSNorm(self.head_dim, eps=eps, weighted=False)

    def forward(self, x: Tensor, turn: Rotation, attend: Attend) -> Attended:
        """x (B, n, M) -> out (B, n, M), with all keys and values."""
        query = self.q(x).unflatten(-1, (self.heads, self.head_dim))  # (B, n, H, D)
        raw = self.k(x).unflatten(-1, (self.kv_heads, self.head_dim))  # (B, n, K, D)
        value = raw if self.v is None else self.v(x).view_as(raw)
        query = rotate(self.q_norm(query), turn).transpose(1, 2)
        key = rotate(self.k_norm(raw), turn).transpose(1, 2)
        seen = attend(self.layer, query, key, self.v_norm(value).transpose(1, 2))
        return seen._replace(out=self.o(seen.out))

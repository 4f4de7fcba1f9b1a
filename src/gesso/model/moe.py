"""Mixture of experts: the router and the experts' weights (model-spec §3, traps 6 and 10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from gesso.config import TextConfig
from gesso.kernels.experts import LowRank, experts
from gesso.kernels.router import choose_experts
from gesso.model.norm import RMSNorm


class Exchange(Protocol):
    """The experts of several processes as one set."""

    def __call__(
        self,
        x: Tensor,
        index: Tensor,
        weight: Tensor,
        run: Callable[[Tensor, Tensor], Tensor],
        count: int,
    ) -> Tensor:
        """As `experts`, where `run` asks the `count` experts that live here: rows (N, M) and
        which of them each is for (N,) -> (N, M)."""
        ...


class Router(nn.Module):
    """Chooses k experts a token from the raw residual, and their weights.

    The weights are renormalised over the chosen and only then scaled per expert, so they need
    not sum to 1.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.k = config.top_k_experts
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, weighted=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, M) -> indices (T, k) int64 and weights (T, k) float32."""
        scaled = self.norm(x) * self.scale * x.shape[-1] ** -0.5
        return choose_experts(self.proj(scaled), self.per_expert_scale, self.k)


class Experts(nn.Module):
    """All experts of a layer: gate and up in one tensor (E, 2F, M), down (E, M, F)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        count, inner = config.num_experts, config.moe_intermediate_size
        self.gate_up = nn.Parameter(torch.empty(count, 2 * inner, config.hidden_size))
        self.down = nn.Parameter(torch.empty(count, config.hidden_size, inner))
        # Set where other processes hold the other experts.
        self.exchange: Exchange | None = None

    def forward(
        self, x: Tensor, index: Tensor, weight: Tensor, change: LowRank | None = None
    ) -> Tensor:
        """x (T, M) -> (T, M)."""
        if self.exchange is None:
            return experts(x, index, weight, self.gate_up, self.down, change)

        def run(rows: Tensor, expert: Tensor) -> Tensor:
            whole = rows.new_ones(len(rows), 1)
            return experts(rows, expert[:, None], whole, self.gate_up, self.down, change)

        return self.exchange(x, index, weight, run, len(self.gate_up))

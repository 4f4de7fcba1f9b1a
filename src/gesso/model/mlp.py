"""The gated MLP: down(gelu_tanh(gate x) * (up x)), no biases."""

from __future__ import annotations

from torch import Tensor, nn

from gesso.kernels.geglu import geglu


class MLP(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, inner, bias=False)
        self.up = nn.Linear(hidden, inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(geglu(self.gate(x), self.up(x)))

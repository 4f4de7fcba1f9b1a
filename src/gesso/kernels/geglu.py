"""The gated activation of the dense MLP and of the experts: gelu_tanh(gate) * up."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate and up of one shape and dtype -> the same."""
    return F.gelu(gate, approximate="tanh") * up

"""The choice of experts: the k most probable of all, their probabilities renormalised and scaled.

    p = softmax(logits),   weight_j = scale[e_j] * p[e_j] / sum_i p[e_i],   e = the k largest

The scale per expert comes after the renormalisation, so weights need not sum to 1 (trap 6). Which
of equally probable experts is chosen is left to torch.topk here.
"""

from __future__ import annotations

from torch import Tensor

from gesso.kernels.precision import at_least_float32


def choose_experts(logits: Tensor, scale: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """logits (T, E), scale (E,) -> indices (T, k) int64, most probable first, and weights (T, k)
    float32."""
    probabilities = at_least_float32(logits).softmax(-1)  # (T, E)
    weight, index = probabilities.topk(k, dim=-1)
    weight = weight / weight.sum(-1, keepdim=True)
    return index, weight * at_least_float32(scale[index])

"""Grouped-query attention with scale 1.0 and no softcap (model-spec §3).

    out = softmax(q k^T + mask) v

The q and k norms take the place of 1/sqrt(D). Query head j reads key-value head j // (H / K).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_reference(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """The definition in plain products; also the CPU's path where a gradient is wanted, which
    there runs several times as fast as the fused operator's backward pass."""
    batch, heads, rows, dim = query.shape
    groups, columns = key.shape[1], key.shape[2]
    per_group = heads // groups
    if causal:
        mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril()
    # The query heads of one group are rows of one product: no key or value is repeated.
    scores_shape = (batch, groups, per_group, rows, columns)
    flat = (batch * groups, per_group * rows)
    folded = query.reshape(*flat, dim)
    keys = key.reshape(batch * groups, columns, dim).transpose(1, 2)
    if mask is None:
        scores = torch.bmm(folded, keys)
    else:
        bias = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
        bias = bias.masked_fill_(~mask, float("-inf"))
        bias = bias[:, :, None] if mask.dim() == 4 else bias  # (B, 1, 1, n, S)
        scores = torch.baddbmm(bias.expand(scores_shape).reshape(*flat, columns), folded, keys)
    out = torch.bmm(scores.softmax(-1), value.reshape(batch * groups, columns, dim))
    return out.view(batch, heads, rows, dim).transpose(1, 2).flatten(2)  # (B, n, H * D)


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """query (B, H, n, D), key and value (B, K, S, D) -> (B, n, H * D).

    mask: bool, broadcastable to (B, 1, n, S), True where a query may look; every row of it must
    hold at least one True, or the softmax has nothing to sum and gives NaN.
    causal: the plain triangle, for n == S; instead of a mask.
    """
    if query.device.type == "cpu" and query.requires_grad:
        return attention_reference(query, key, value, mask=mask, causal=causal)
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        scale=1.0,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).flatten(2)  # (B, n, H * D)

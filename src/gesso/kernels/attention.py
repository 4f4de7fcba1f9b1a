"""Grouped-query attention with scale 1.0 and no softcap (model-spec §3).

    out = softmax(q k^T + mask) v

The q and k norms take the place of 1/sqrt(D). Query head j reads key-value head j // (H / K).

Where a CPU is to have gradients, rows go in chunks whose scores stay in the processor's cache,
forward and backward: torch's fused operator has a slow backward pass there, and plain products read
and write scores of all rows eight times.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores of one chunk: 256K float32 values are 1 MB.
_CHUNK = 1 << 18


def attention_reference(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """The definition in plain products, differentiated by autograd."""
    groups, rows, columns = key.shape[1], query.shape[2], key.shape[2]
    if causal:
        mask = _triangle(query, columns)
    # The query heads of one group are rows of one product: no key or value is repeated.
    folded = query.unflatten(1, (groups, -1)).flatten(2, 3)  # (B, K, H / K * n, D)
    scores = (folded @ key.mT).unflatten(2, (-1, rows))  # (B, K, H / K, n, S)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
    out = scores.softmax(-1).flatten(2, 3) @ value
    return out.unflatten(2, (-1, rows)).flatten(1, 2).transpose(1, 2).flatten(2)  # (B, n, H * D)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        batch, heads, rows, dim = query.shape
        groups, columns = key.shape[1], key.shape[2]
        folded = query.reshape(batch, groups, -1, dim)  # (B, K, H / K * n, D)
        key, value = key.contiguous(), value.contiguous()
        weights = query.new_empty(*folded.shape[:3], columns)
        out = torch.empty_like(folded)
        bias = None
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
            bias = bias.masked_fill_(~mask, float("-inf"))[:, :, None]  # (B or 1, 1, 1, n or 1, S)
            bias = bias.expand(batch, -1, -1, -1, -1)
        for part in _parts(weights):
            scores = torch.bmm(folded[part].flatten(0, 1), key[part].flatten(0, 1).mT)
            if bias is not None:
                scores.view(-1, groups, heads // groups, rows, columns).add_(bias[part])
            chunk = weights[part].flatten(0, 1)
            torch.softmax(scores, -1, out=chunk)
            torch.bmm(chunk, value[part].flatten(0, 1), out=out[part].flatten(0, 1))
        ctx.save_for_backward(folded, key, value, weights)
        return out.view(batch, heads, rows, dim).transpose(1, 2).flatten(2)  # (B, n, H * D)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        folded, key, value, weights = ctx.saved_tensors
        batch, rows, _ = grad.shape
        dim = folded.shape[-1]
        folded_grad = grad.view(batch, rows, -1, dim).transpose(1, 2).reshape(folded.shape)
        d_query, d_key, d_value = map(torch.empty_like, (folded, key, value))
        for part in _parts(weights):
            q, k, v, p, g = (
                t[part].flatten(0, 1) for t in (folded, key, value, weights, folded_grad)
            )
            torch.bmm(p.mT, g, out=d_value[part].flatten(0, 1))
            # d scores = p * (dp - sum(dp * p))
            d_scores = torch.bmm(g, v.mT)
            d_scores.sub_(torch.linalg.vecdot(d_scores, p)[..., None]).mul_(p)
            torch.bmm(d_scores, k, out=d_query[part].flatten(0, 1))
            torch.bmm(d_scores.mT, q, out=d_key[part].flatten(0, 1))
        return d_query.view(batch, -1, rows, dim), d_key, d_value, None


def _parts(weights: Tensor) -> list[slice]:
    """Slices of the batch whose scores make a chunk, at least one row each."""
    size = max(1, _CHUNK // max(1, weights[0].numel()))
    return [slice(start, start + size) for start in range(0, len(weights), size)]


def _triangle(query: Tensor, columns: int) -> Tensor:
    shape = (1, 1, query.shape[2], columns)
    return torch.ones(shape, dtype=torch.bool, device=query.device).tril()


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """query (B, H, n, D), key and value (B, K, S, D) -> (B, n, H * D).

    mask: bool, broadcastable to (B, 1, n, S), True where a query may look; every row of it must
    hold at least one True, or the softmax has nothing to sum and gives NaN.
    causal: the plain triangle, for n == S; instead of a mask.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        seen = _triangle(query, key.shape[2]) if causal else mask
        found = _Chunked.apply(query, key, value, seen)
        assert isinstance(found, Tensor)
        return found
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

"""From raw projections to what attention reads: the norms of q, k and v, and the rotation.

    q = rotate(norm(raw_q; w_q)),  k = rotate(norm(raw_k; w_k)),  v = norm(raw_v)

One launch reads every projection once and writes queries, keys and values as attention wants them.
Where a layer has no value projection (model-spec §3, trap 3) one read of raw_k gives both. Moves
2 values a result where one operator after the other moves 7 for q and k, and copies to transpose.

The norm is rounded to the activations' dtype before it turns, as cos and sin are; products and
sums are float32, rounded once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gesso.kernels.rope import Rotation

# Values of one tile of heads.
_TILE = 4096


@triton.jit
def _halves(pointer, head, half, stride, mask, HALF: tl.constexpr):
    """Both halves of a tile of heads in float32, (N, HALF) each."""
    spot = pointer + head[:, None] * stride + half[None, :]
    first = tl.load(spot, mask=mask, other=0.0).to(tl.float32)
    return first, tl.load(spot + HALF, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _normalised(first, second, HALF: tl.constexpr, eps):
    squares = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    inverse = (1.0 / tl.sqrt(squares / (2 * HALF) + eps))[:, None]
    return first * inverse, second * inverse


@triton.jit
def _write_turned(
    first, second, weight, cos, sin, half, in_half, out, mask, HALF: tl.constexpr
):  # fmt: skip
    dtype = out.dtype.element_ty
    first *= tl.load(weight + half, mask=in_half, other=0.0).to(tl.float32)[None, :]
    second *= tl.load(weight + HALF + half, mask=in_half, other=0.0).to(tl.float32)[None, :]
    first, second = first.to(dtype).to(tl.float32), second.to(dtype).to(tl.float32)
    cos = tl.load(cos + half, mask=in_half, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(sin + half, mask=in_half, other=0.0).to(tl.float32)[None, :]
    tl.store(out, (first * cos - second * sin).to(dtype), mask=mask)
    tl.store(out + HALF, (second * cos + first * sin).to(dtype), mask=mask)


@triton.jit
def _queries(
    raw, weight, cos, sin, out, token, part, stride, eps,
    H: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head, half = part * BLOCK_H + tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D)
    in_half = half < HALF
    mask = (head < H)[:, None] & in_half[None, :]
    first, second = _halves(raw + token * stride, head, half, 2 * HALF, mask, HALF)
    first, second = _normalised(first, second, HALF, eps)
    spots = out + (token * H + head[:, None]) * (2 * HALF) + half[None, :]
    _write_turned(first, second, weight, cos, sin, half, in_half, spots, mask, HALF)


@triton.jit
def _keys_and_values(
    raw_k, raw_v, weight, cos, sin, keys, values, token, part, stride_k, stride_v, stride_h, eps,
    K: tl.constexpr, HALF: tl.constexpr, SHARED: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    head, half = part * BLOCK_K + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    in_half = half < HALF
    mask = (head < K)[:, None] & in_half[None, :]
    spots = head[:, None].to(tl.int64) * stride_h + half[None, :]
    first, second = _halves(raw_k + token * stride_k, head, half, 2 * HALF, mask, HALF)
    first, second = _normalised(first, second, HALF, eps)
    if SHARED:
        one, two = first, second
    else:
        one, two = _halves(raw_v + token * stride_v, head, half, 2 * HALF, mask, HALF)
        one, two = _normalised(one, two, HALF, eps)
    tl.store(values + spots, one.to(values.dtype.element_ty), mask=mask)
    tl.store(values + spots + HALF, two.to(values.dtype.element_ty), mask=mask)
    _write_turned(first, second, weight, cos, sin, half, in_half, keys + spots, mask, HALF)


@triton.jit
def _heads_kernel(
    raw_q, raw_k, raw_v, q_weight, k_weight, cos, sin, query, keys, values,
    new, turn_b, stride_q, stride_k, stride_v, stride_b, stride_h, stride_s, eps,
    H: tl.constexpr, K: tl.constexpr, HALF: tl.constexpr, SHARED: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, position = token // new, token % new
    angle = row * turn_b + position * HALF
    query_parts: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    if part < query_parts:
        _queries(
            raw_q, q_weight, cos + angle, sin + angle, query, token, part, stride_q, eps,
            H, HALF, BLOCK_H, BLOCK_D,
        )  # fmt: skip
    else:
        place = row * stride_b + position * stride_s
        _keys_and_values(
            raw_k, raw_v, k_weight, cos + angle, sin + angle, keys + place, values + place, token,
            part - query_parts, stride_k, stride_v, stride_h, eps, K, HALF, SHARED, BLOCK_K,
            BLOCK_D,
        )  # fmt: skip


class Heads(NamedTuple):
    """query (B, H, n, D), a view of (B, n, H, D); keys and values (B, K, n, D)."""

    query: Tensor
    keys: Tensor
    values: Tensor


def turn_heads(
    raw_q: Tensor,
    raw_k: Tensor,
    raw_v: Tensor | None,
    *,
    q_weight: Tensor,
    k_weight: Tensor,
    turn: Rotation,
    eps: float,
) -> Heads:
    """raw_q (B, n, H, D), raw_k and raw_v (B, n, K, D) -> queries, keys and values for attention.

    A token's heads are contiguous, tokens evenly spaced: the three may be parts of one product.
    raw_v None: values are made of raw_k. q_weight and k_weight (D,); turn: cos and sin (B or 1, n,
    D/2).
    """
    batch, new, heads, dim = raw_q.shape
    groups = raw_k.shape[2]
    assert raw_k.shape == (batch, new, groups, dim)
    assert raw_k.dtype == raw_q.dtype
    assert raw_v is None or (raw_v.shape == raw_k.shape and raw_v.dtype == raw_k.dtype)
    assert turn.cos.shape == turn.sin.shape
    assert turn.cos.shape[1:] == (new, dim // 2)
    assert turn.cos.is_contiguous()
    assert turn.sin.is_contiguous()
    assert dim % 2 == 0
    raw = [raw_q, raw_k, raw_k if raw_v is None else raw_v]
    assert all(t.stride()[2:] == (dim, 1) for t in raw)
    assert all(t.stride(0) == new * t.stride(1) or batch == 1 for t in raw)
    query = torch.empty(batch, new, heads, dim, dtype=raw_q.dtype, device=raw_q.device)
    keys, values = (raw_k.new_empty(batch, groups, new, dim) for _ in range(2))
    half = triton.next_power_of_2(dim // 2)
    block_h = min(triton.next_power_of_2(heads), max(1, _TILE // (2 * half)))
    block_k = min(triton.next_power_of_2(groups), max(1, _TILE // (4 * half)))
    grid = (batch * new, triton.cdiv(heads, block_h) + triton.cdiv(groups, block_k))
    _heads_kernel[grid](
        *raw, q_weight, k_weight, *turn, query, keys, values,
        new, 0 if turn.cos.shape[0] == 1 else turn.cos.stride(0),
        *(t.stride(1) for t in raw), *keys.stride()[:3], eps,
        H=heads, K=groups, HALF=dim // 2, SHARED=raw_v is None,
        BLOCK_H=block_h, BLOCK_K=block_k, BLOCK_D=half, num_warps=4,
    )  # fmt: skip
    return Heads(query.transpose(1, 2), keys, values)

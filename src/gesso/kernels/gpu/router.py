"""The router in two launches: logits, and the choice of experts.

    p = softmax(proj z),   weight_j = scale[e_j] * p[e_j] / sum_i p[e_i],   e = the k largest

The product has few columns (one an expert) and a long inner dimension, which is shared out over
programs: each writes float32 parts of the logits, and the choice adds them in a fixed order. The
logits are never rounded to the activations' dtype, as they are in the definition, which in
bfloat16 makes many of them equal. Of equal logits the lower expert is taken first. The softmax
is over the chosen alone, which is the same after the renormalisation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Inner values of one program's share of the product.
_SHARE = 384


@triton.jit
def _router_logits_kernel(
    x, weight, parts, tokens,
    M: tl.constexpr, E: tl.constexpr, SHARE: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    expert, inner = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_M)
    in_token, in_expert = token < tokens, expert < E
    logits = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for step in range(0, SHARE, BLOCK_M):
        column = part * SHARE + step + inner
        in_row = column < M
        x_tile = tl.load(
            x + token[:, None] * M + column[None, :],
            mask=in_token[:, None] & in_row[None, :], other=0.0,
        )  # fmt: skip
        w_tile = tl.load(
            weight + expert[:, None] * M + column[None, :],
            mask=in_expert[:, None] & in_row[None, :], other=0.0,
        )  # fmt: skip
        logits = tl.dot(x_tile, tl.trans(w_tile), logits, input_precision=PRECISION)
    spot = parts + (part * tokens + token[:, None]) * E + expert[None, :]
    tl.store(spot, logits, mask=in_token[:, None] & in_expert[None, :])


@triton.jit
def _choose_kernel(
    parts, scale, index_out, weight_out, tokens,
    E: tl.constexpr, PARTS: tl.constexpr, CHOSEN: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    expert, place = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K)
    in_token = token < tokens
    in_logits = in_token[:, None] & (expert < E)[None, :]
    logits = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for part in range(PARTS):
        spot = parts + (part * tokens + token[:, None]) * E + expert[None, :]
        logits += tl.load(spot, mask=in_logits, other=0.0)
    logits = tl.where((expert < E)[None, :], logits, float("-inf"))

    index = tl.zeros((BLOCK_T, BLOCK_K), tl.int32)
    chosen = tl.full((BLOCK_T, BLOCK_K), float("-inf"), tl.float32)
    for j in range(CHOSEN):
        best = tl.max(logits, 1)
        # The lowest of equals.
        at = tl.min(tl.where(logits == best[:, None], expert[None, :], BLOCK_E), 1)
        at = tl.minimum(at, E - 1)  # where all are NaN, none of them is the best
        index = tl.where(place[None, :] == j, at[:, None], index)
        chosen = tl.where(place[None, :] == j, best[:, None], chosen)
        logits = tl.where(expert[None, :] == at[:, None], float("-inf"), logits)
    weight = tl.exp(chosen - tl.max(chosen, 1)[:, None])
    weight = weight / tl.sum(weight, 1)[:, None]
    weight *= tl.load(scale + index).to(tl.float32)
    spot = token[:, None] * CHOSEN + place[None, :]
    in_out = in_token[:, None] & (place < CHOSEN)[None, :]
    tl.store(index_out + spot, index.to(tl.int64), mask=in_out)
    tl.store(weight_out + spot, weight, mask=in_out)


class Routing(NamedTuple):
    """expert (T, k) int64, most probable first; weight (T, k) float32."""

    expert: Tensor
    weight: Tensor


def route(x: Tensor, proj: Tensor, scale: Tensor, *, k: int) -> Routing:
    """x (T, M), normed and scaled; proj (E, M) of the same dtype; scale (E,), one an expert."""
    tokens, hidden = x.shape
    experts = len(proj)
    assert proj.shape == (experts, hidden)
    assert proj.dtype == x.dtype
    assert 0 < k <= experts
    assert x.is_contiguous()
    assert proj.is_contiguous()
    assert scale.shape == (experts,)
    parts = _parts_of_logits(x, proj)
    index = torch.empty(tokens, k, dtype=torch.int64, device=x.device)
    weight = torch.empty(tokens, k, dtype=torch.float32, device=x.device)
    block = 4
    _choose_kernel[(triton.cdiv(tokens, block),)](
        parts, scale, index, weight, tokens, E=experts, PARTS=len(parts), CHOSEN=k, BLOCK_T=block,
        BLOCK_E=triton.next_power_of_2(experts), BLOCK_K=triton.next_power_of_2(k), num_warps=4,
    )  # fmt: skip
    return Routing(index, weight)


def _parts_of_logits(x: Tensor, proj: Tensor) -> Tensor:
    """(parts, T, E) float32, to be added."""
    tokens, hidden = x.shape
    block_t, block_m = 16, min(128, max(16, triton.next_power_of_2(hidden)))
    share = _SHARE if hidden > block_m else block_m
    parts = triton.cdiv(hidden, share)
    out = torch.empty(parts, tokens, len(proj), dtype=torch.float32, device=x.device)
    _router_logits_kernel[(triton.cdiv(tokens, block_t), parts)](
        x, proj, out, tokens, M=hidden, E=len(proj), SHARE=share,
        BLOCK_T=block_t, BLOCK_E=max(16, triton.next_power_of_2(len(proj))), BLOCK_M=block_m,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", num_warps=4, num_stages=3,
    )  # fmt: skip
    return out

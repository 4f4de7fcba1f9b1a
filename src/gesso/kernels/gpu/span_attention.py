"""Causal attention of new tokens, with window and images, without a mask in memory.

What a token sees is always one run of columns, so two integers stand for a mask: `causal_spans`
gives them. Columns that no row of a tile sees are skipped.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gesso.kernels.gpu.online_softmax import (
    LOWEST,
    check_layout,
    choose_splits,
    choose_tiles,
    combine,
    finish,
    fold,
    new_parts,
    padded,
    precision,
)


@triton.jit
def _span_attention_kernel(
    query, keys, values, begins, ends, out, best_out, total_out,
    batch, new, stride_qb, stride_qh, stride_qn, stride_b, stride_k, stride_s,
    K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    b, k = (tl.program_id(2) // K).to(tl.int64), (tl.program_id(2) % K).to(tl.int64)
    # The last rows see the most columns: they start first.
    row_start = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    rows = row_start + tl.arange(0, BLOCK_M)
    position, head = rows // G, rows % G
    dims, columns = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    in_row, in_dim = position < new, dims < D
    in_query = in_row[:, None] & in_dim[None, :]
    # One wide address a tile, narrow ones within it.
    first_position = (row_start // G).to(tl.int64)
    near = position - row_start // G
    q_tile = query + b * stride_qb + k * G * stride_qh + first_position * stride_qn
    q_spots = (head * stride_qh + near * stride_qn)[:, None] + dims[None, :]
    q = tl.load(q_tile + q_spots, mask=in_query, other=0.0)  # (M, D)

    begin = tl.load(begins + b * new + position, mask=in_row, other=2147483647)
    end = tl.load(ends + b * new + position, mask=in_row, other=0)
    low, high = tl.min(begin), tl.max(end)
    tiles = tl.cdiv(high - low, BLOCK_N)
    share = tl.cdiv(tiles, SPLITS)
    base = b * stride_b + k * stride_k

    best = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for tile in range(split * share, tl.minimum((split + 1) * share, tiles)):
        column = low + tile * BLOCK_N
        at = column + columns
        seen = (at[None, :] >= begin[:, None]) & (at[None, :] < end[:, None])
        mask = (at < high)[:, None] & in_dim[None, :]
        start = base + column.to(tl.int64) * stride_s
        spots = columns[:, None] * stride_s + dims[None, :]  # (N, D)
        k_tile = tl.load(keys + start + spots, mask=mask, other=0.0)
        v_tile = tl.load(values + start + spots, mask=mask, other=0.0)
        best, total, acc = fold(q, k_tile, v_tile, seen, best, total, acc, PRECISION)
    place = (b * new + first_position) * (K * G) + k * G
    finish(
        out, best_out, total_out, split, place, near * (K * G) + head, in_query, in_row,
        batch * new * (K * G), best, total, acc, dims, D, SPLITS,
    )  # fmt: skip


class Spans(NamedTuple):
    """The columns begin .. end - 1 that each new token sees: (B, n) int32 each."""

    begin: Tensor
    end: Tensor


def causal_spans(
    kept: Tensor, *, columns: int, window: int | None = None, blocks: Tensor | None = None
) -> Spans:
    """What `gesso.model.masks.causal_mask` says, as one run of columns a token.

    New token i of row b stands in column kept[b] + i: kept (B,) integers. window: a token sees
    itself and window - 1 earlier columns; None: all earlier ones. blocks (B, columns) integers:
    neighbours that share a number above 0 (the tokens of one image) see each other, whatever the
    order and the window. No padding. Small torch operations, once a pass; no synchronisation.
    """
    new = torch.arange(columns, device=kept.device)
    query = kept[:, None] + new  # (B, n)
    begin, end = torch.zeros_like(query), query + 1
    if window is not None:
        begin = (query - (window - 1)).clamp(min=0)
    if blocks is not None:
        edge = blocks[:, 1:] != blocks[:, :-1]
        starts = torch.nn.functional.pad(edge, (1, 0), value=True)
        stops = torch.nn.functional.pad(edge, (0, 1), value=True)
        start = torch.where(starts, new, 0).cummax(1).values
        stop = torch.where(stops, new + 1, columns).flip(1).cummin(1).values.flip(1)
        inside = blocks > 0
        begin = torch.where(inside, torch.minimum(begin, kept[:, None] + start), begin)
        end = torch.where(inside, kept[:, None] + stop, end)
    return Spans(begin.int().contiguous(), end.int().contiguous())


def span_attention(
    query: Tensor, keys: Tensor, values: Tensor, *, spans: Spans, splits: int | None = None
) -> Tensor:
    """query (B, H, n, D); keys and values (B, K, S, D) -> (B, n, H * D).

    spans: the columns that each query sees, at least one; the others are not weighed, and what no
    query of a tile sees is not read. One dtype, the last dimension contiguous, keys laid out as
    values are. splits as in `canvas_attention`.
    """
    batch, heads, new, dim = query.shape
    groups, capacity = keys.shape[1], keys.shape[2]
    assert heads % groups == 0
    assert spans.begin.shape == spans.end.shape == (batch, new)
    assert spans.begin.is_contiguous()
    assert spans.end.is_contiguous()
    assert query.dtype == keys.dtype
    check_layout(query, keys, values)
    per_group = heads // groups
    tiles = choose_tiles(new * per_group, dim, query.dtype)
    row_tiles = triton.cdiv(new * per_group, tiles.rows)
    if splits is None:
        splits = choose_splits(row_tiles * groups, capacity)
    out = query.new_empty(batch, new, heads * dim)
    parts = new_parts(out, splits, batch * new * heads)
    _span_attention_kernel[(row_tiles, splits, batch * groups)](
        query, keys, values, spans.begin, spans.end, *parts, batch, new,
        *query.stride()[:3], *keys.stride()[:3],
        K=groups, G=per_group, D=dim, SPLITS=splits, BLOCK_M=tiles.rows, BLOCK_N=tiles.columns,
        BLOCK_D=padded(dim), PRECISION=precision(query.dtype),
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return combine(parts, out, dim, splits)

"""Attention of a canvas over its cache and itself, without a mask in memory.

A canvas sees the first length[b] columns of a cache that may be larger, then all of itself; the two
are read where they lie, which saves writing and reading the joined keys and values once a layer.
Lengths are device data, so one captured graph serves all of them.
"""

from __future__ import annotations

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

# The columns are shared out as if there were so many: the room for them grows with the longest of
# the requests that ever were, and a row's bits are not to depend on others.
_COLUMNS = 2048


@triton.jit
def _tile(cache, canvas, is_cache, base, spots, columns, rest, in_dim, NARROW: tl.constexpr):
    """A tile of the cache, or of the canvas, in the canvas's dtype; columns (N,) below `rest`."""
    if NARROW:
        in_cache = (columns < tl.where(is_cache, rest, 0))[:, None] & in_dim[None, :]
        in_canvas = (columns < tl.where(is_cache, 0, rest))[:, None] & in_dim[None, :]
        kept = tl.load(cache + base + spots, mask=in_cache, other=0.0)
        new = tl.load(canvas + base + spots, mask=in_canvas, other=0.0)
        tile = tl.where(is_cache, kept.to(new.dtype), new)
    else:
        mask = (columns < rest)[:, None] & in_dim[None, :]
        tile = tl.load(tl.where(is_cache, cache, canvas) + base + spots, mask=mask, other=0.0)
    return tile


@triton.jit
def _canvas_kernel(
    query, keys, values, canvas_keys, canvas_values, length, out, best_out, total_out,
    batch, canvas, stride_qb, stride_qh, stride_qn, stride_b, stride_k, stride_s,
    stride_cb, stride_ck, stride_cs,
    K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
    NARROW: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    row = tl.program_id(2) // K
    b, k = row.to(tl.int64), (tl.program_id(2) % K).to(tl.int64)
    # Folded rows: position, then head of the group.
    row_start = tl.program_id(0) * BLOCK_M
    rows = row_start + tl.arange(0, BLOCK_M)
    position, head = rows // G, rows % G
    dims, columns = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    in_row, in_dim = position < canvas, dims < D
    in_query = in_row[:, None] & in_dim[None, :]
    # One wide address a tile, narrow ones within it.
    first_position = (row_start // G).to(tl.int64)
    near = position - row_start // G
    q_tile = query + b * stride_qb + k * G * stride_qh + first_position * stride_qn
    q_spots = (head * stride_qh + near * stride_qn)[:, None] + dims[None, :]
    q = tl.load(q_tile + q_spots, mask=in_query, other=0.0)  # (M, D)

    cached = tl.load(length + row).to(tl.int32)
    # The tiles of the cache, then those of the canvas: one sequence, shared out evenly.
    cache_tiles = tl.cdiv(cached, BLOCK_N)
    tiles = cache_tiles + tl.cdiv(canvas, BLOCK_N)
    share = tl.cdiv(tiles, SPLITS)
    cache_spot = b * stride_b + k * stride_k
    canvas_spot = b * stride_cb + k * stride_ck

    best = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for tile in range(split * share, tl.minimum((split + 1) * share, tiles)):
        is_cache = tile < cache_tiles
        stride = tl.where(is_cache, stride_s, stride_cs)
        column = tl.where(is_cache, tile, tile - cache_tiles) * BLOCK_N
        rest = tl.where(is_cache, cached, canvas) - column
        base = tl.where(is_cache, cache_spot, canvas_spot) + column.to(tl.int64) * stride
        spots = columns[:, None] * stride + dims[None, :]  # (N, D)
        k_tile = _tile(keys, canvas_keys, is_cache, base, spots, columns, rest, in_dim, NARROW)
        v_tile = _tile(values, canvas_values, is_cache, base, spots, columns, rest, in_dim, NARROW)
        seen = (columns < rest)[None, :]
        best, total, acc = fold(q, k_tile, v_tile, seen, best, total, acc, PRECISION)
    place = (b * canvas + first_position) * (K * G) + k * G
    finish(
        out, best_out, total_out, split, place, near * (K * G) + head, in_query, in_row,
        batch * canvas * (K * G), best, total, acc, dims, D, SPLITS,
    )  # fmt: skip


def canvas_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    canvas_keys: Tensor,
    canvas_values: Tensor,
    *,
    length: Tensor,
    splits: int | None = None,
) -> Tensor:
    """Every canvas row sees the same cached columns of its batch row, and the whole canvas.

    query (B, H, L, D); keys and values (B, K, S, D), the cache with room for S columns, of which
    the first length[b] count and the others are not read; canvas_keys and canvas_values
    (B, K, L, D); one dtype, but that the cache's may be float8_e4m3fn, which is made wide as it is
    read; the last dimension contiguous, keys laid out as values are. length (B,) integers on the
    device. splits: programs that share a tile's columns; by default as many as one batch row needs
    to fill a large device, whatever the room. Returns (B, L, H * D).
    """
    batch, heads, canvas, dim = query.shape
    groups = keys.shape[1]
    assert heads % groups == 0
    assert canvas_keys.shape == (batch, groups, canvas, dim)
    assert keys.dtype in (query.dtype, torch.float8_e4m3fn)
    check_layout(query, keys, values)
    check_layout(query, canvas_keys, canvas_values)
    assert query.dtype == canvas_keys.dtype
    assert length.shape == (batch,)
    per_group = heads // groups
    tiles = choose_tiles(canvas * per_group, dim, query.dtype)
    row_tiles = triton.cdiv(canvas * per_group, tiles.rows)
    if splits is None:
        splits = choose_splits(row_tiles * groups, _COLUMNS)
    out = query.new_empty(batch, canvas, heads * dim)
    parts = new_parts(out, splits, batch * canvas * heads)
    _canvas_kernel[(row_tiles, splits, batch * groups)](
        query, keys, values, canvas_keys, canvas_values, length.contiguous(),
        *parts, batch, canvas, *query.stride()[:3], *keys.stride()[:3], *canvas_keys.stride()[:3],
        K=groups, G=per_group, D=dim, SPLITS=splits, BLOCK_M=tiles.rows, BLOCK_N=tiles.columns,
        BLOCK_D=padded(dim), PRECISION=precision(query.dtype),
        NARROW=keys.dtype != query.dtype,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return combine(parts, out, dim, splits)

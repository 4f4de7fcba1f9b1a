"""Attention of a canvas over its cache, and causal attention, without masks in memory.

    out = softmax(q k^T) v        scale 1.0, no softcap, query head j reads kv head j // (H / K)

Both walk over tiles of columns and keep, per query row, the highest score so far, the sum of
weights and the weighted values in float32: scores never leave the processor, memory is linear.
The query heads of one kv group are rows of one tile, so that a key or value is read once for all.

What a query sees is always one run of columns, so two integers stand for a mask. A canvas sees
columns first[b] .. length[b] - 1 of a cache that may be larger, then all of itself; the two are
read where they lie, which saves writing and reading the joined keys and values once a layer. A
causal query sees the run that `causal_spans` gives. Columns that no row of a tile sees are
skipped.

The columns of a tile of rows are shared out over a fixed number of programs, whose float32 partial
results a second kernel adds in a fixed order. The number is a function of the shapes of one batch
row, and tiles are counted from a row's own first column: neither batch mates nor left padding
change the bits of a row. Lengths are device data, so one captured graph serves all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2E = tl.constexpr(1.4426950408889634)
# The highest score before any: finite, so that the difference of two of them is 0 and not NaN.
_LOWEST = tl.constexpr(-1.0e30)

# Programs of one batch row that the columns are shared out for, and columns below which a share
# is not worth the partial result.
_PROGRAMS = 128
_SHARE_COLUMNS = 256


@triton.jit
def _fold(query, keys, values, seen, best, total, out, PRECISION: tl.constexpr):
    """Takes one tile of columns (N, D) into the running softmax of the rows (M, D)."""
    scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * _LOG2E  # (M, N)
    scores = tl.where(seen, scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, 1))
    weight = tl.exp2(scores - new_best[:, None])
    decay = tl.exp2(best - new_best)
    total = total * decay + tl.sum(weight, 1)
    out = tl.dot(weight.to(values.dtype), values, out * decay[:, None], input_precision=PRECISION)
    return new_best, total, out


@triton.jit
def _finish(
    out, best_out, total_out, split, place, places, in_out, in_row, rows, best, total, acc, dims,
    D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Writes the rows' result, or this program's part of it.

    place: the first position's row of (B, n, H); places (M,): each row's, counted from there.
    """
    if SPLITS == 1:
        # Rows past the last one may have seen nothing.
        acc = acc * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    else:
        place += split.to(tl.int64) * rows
        tl.store(best_out + place + places, best, mask=in_row)
        tl.store(total_out + place + places, total, mask=in_row)
    spot = out + place * D + (places[:, None] * D + dims[None, :])
    tl.store(spot, acc.to(out.dtype.element_ty), mask=in_out)


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
    query, keys, values, canvas_keys, canvas_values, first, length, out, best_out, total_out,
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

    start = tl.load(first + row).to(tl.int32)
    cached = tl.maximum(tl.load(length + row).to(tl.int32) - start, 0)
    # The tiles of the cache, then those of the canvas: one sequence, shared out evenly.
    cache_tiles = tl.cdiv(cached, BLOCK_N)
    tiles = cache_tiles + tl.cdiv(canvas, BLOCK_N)
    share = tl.cdiv(tiles, SPLITS)
    cache_spot = b * stride_b + k * stride_k + start.to(tl.int64) * stride_s
    canvas_spot = b * stride_cb + k * stride_ck

    best = tl.full((BLOCK_M,), _LOWEST, tl.float32)
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
        best, total, acc = _fold(q, k_tile, v_tile, seen, best, total, acc, PRECISION)
    place = (b * canvas + first_position) * (K * G) + k * G
    _finish(
        out, best_out, total_out, split, place, near * (K * G) + head, in_query, in_row,
        batch * canvas * (K * G), best, total, acc, dims, D, SPLITS,
    )  # fmt: skip


@triton.jit
def _span_kernel(
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

    best = tl.full((BLOCK_M,), _LOWEST, tl.float32)
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
        best, total, acc = _fold(q, k_tile, v_tile, seen, best, total, acc, PRECISION)
    place = (b * new + first_position) * (K * G) + k * G
    _finish(
        out, best_out, total_out, split, place, near * (K * G) + head, in_query, in_row,
        batch * new * (K * G), best, total, acc, dims, D, SPLITS,
    )  # fmt: skip


@triton.jit
def _combine_kernel(
    parts, best_in, total_in, out, rows,
    D: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    in_row = row < rows
    in_out = in_row[:, None] & (dims < D)[None, :]
    best = tl.full((BLOCK_M,), _LOWEST, tl.float32)
    for split in range(SPLITS):
        # Past the last row all weights are 1: no 0 / 0.
        best = tl.maximum(best, tl.load(best_in + split * rows + row, mask=in_row, other=0.0))
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for split in range(SPLITS):
        place = split * rows + row
        weight = tl.exp2(tl.load(best_in + place, mask=in_row, other=0.0) - best)
        total += weight * tl.load(total_in + place, mask=in_row, other=1.0)
        part = tl.load(parts + place[:, None] * D + dims[None, :], mask=in_out, other=0.0)
        acc += weight[:, None] * part
    value = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + row[:, None] * D + dims[None, :], value, mask=in_out)


class _Tiles(NamedTuple):
    rows: int
    columns: int
    warps: int
    stages: int


class _Parts(NamedTuple):
    """What the programs of one row of tiles write: float32, or the result itself when alone."""

    out: Tensor
    best: Tensor
    total: Tensor


def canvas_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    canvas_keys: Tensor,
    canvas_values: Tensor,
    *,
    first: Tensor,
    length: Tensor,
    splits: int | None = None,
) -> Tensor:
    """Every canvas row sees the same cached columns of its batch row, and the whole canvas.

    query (B, H, L, D); keys and values (B, K, S, D), the cache with room for S columns, of which
    first[b] <= c < length[b] count and the others are not read; canvas_keys and canvas_values
    (B, K, L, D); one dtype, but that the cache's may be float8_e4m3fn, which is made wide as it is
    read; the last dimension contiguous, keys laid out as values are. first and length (B,)
    integers on the device. splits: programs that share a tile's columns; by default
    as many as one batch row needs to fill a large device. Returns (B, L, H * D).
    """
    batch, heads, canvas, dim = query.shape
    groups, capacity = keys.shape[1], keys.shape[2]
    assert heads % groups == 0
    assert canvas_keys.shape == (batch, groups, canvas, dim)
    assert keys.dtype in (query.dtype, torch.float8_e4m3fn)
    _check_layout(query, keys, values)
    _check_layout(query, canvas_keys, canvas_values)
    assert query.dtype == canvas_keys.dtype
    assert first.shape == length.shape == (batch,)
    per_group = heads // groups
    tiles = _choose_tiles(canvas * per_group, dim, query.dtype)
    row_tiles = triton.cdiv(canvas * per_group, tiles.rows)
    if splits is None:
        splits = _choose_splits(row_tiles * groups, capacity + canvas)
    out = query.new_empty(batch, canvas, heads * dim)
    parts = _parts(out, splits, batch * canvas * heads)
    _canvas_kernel[(row_tiles, splits, batch * groups)](
        query, keys, values, canvas_keys, canvas_values, first.contiguous(), length.contiguous(),
        *parts, batch, canvas, *query.stride()[:3], *keys.stride()[:3], *canvas_keys.stride()[:3],
        K=groups, G=per_group, D=dim, SPLITS=splits, BLOCK_M=tiles.rows, BLOCK_N=tiles.columns,
        BLOCK_D=_padded(dim), PRECISION=_precision(query.dtype),
        NARROW=keys.dtype != query.dtype,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return _combine(parts, out, dim, splits)


class Spans(NamedTuple):
    """The columns begin .. end - 1 that each new token sees: (B, n) int32 each."""

    begin: Tensor
    end: Tensor


def causal_spans(
    first: Tensor,
    kept: Tensor,
    *,
    columns: int,
    window: int | None = None,
    blocks: Tensor | None = None,
) -> Spans:
    """What `gesso.model.masks.causal_mask` says, as one run of columns a token.

    New token i of row b stands in column kept[b] + i, and columns before first[b] are padding:
    first and kept (B,) integers. window: a token sees itself and window - 1 earlier columns; None:
    all earlier ones. blocks (B, columns) integers: neighbours that share a number above 0 (the
    tokens of one image) see each other, whatever the order and the window. A padding token sees
    itself alone. Small torch operations, once a pass; no synchronisation.
    """
    new = torch.arange(columns, device=kept.device)
    query = kept[:, None] + new  # (B, n)
    begin, end = first[:, None].expand_as(query), query + 1
    if window is not None:
        begin = torch.maximum(begin, query - (window - 1))
    if blocks is not None:
        edge = blocks[:, 1:] != blocks[:, :-1]
        starts = torch.nn.functional.pad(edge, (1, 0), value=True)
        stops = torch.nn.functional.pad(edge, (0, 1), value=True)
        start = torch.where(starts, new, 0).cummax(1).values
        stop = torch.where(stops, new + 1, columns).flip(1).cummin(1).values.flip(1)
        inside = blocks > 0
        begin = torch.where(inside, torch.minimum(begin, kept[:, None] + start), begin)
        end = torch.where(inside, kept[:, None] + stop, end)
    # A padding token's row is never read, but it must not be empty.
    begin = torch.minimum(torch.maximum(begin, first[:, None]), query)
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
    _check_layout(query, keys, values)
    per_group = heads // groups
    tiles = _choose_tiles(new * per_group, dim, query.dtype)
    row_tiles = triton.cdiv(new * per_group, tiles.rows)
    if splits is None:
        splits = _choose_splits(row_tiles * groups, capacity)
    out = query.new_empty(batch, new, heads * dim)
    parts = _parts(out, splits, batch * new * heads)
    _span_kernel[(row_tiles, splits, batch * groups)](
        query, keys, values, spans.begin, spans.end, *parts, batch, new,
        *query.stride()[:3], *keys.stride()[:3],
        K=groups, G=per_group, D=dim, SPLITS=splits, BLOCK_M=tiles.rows, BLOCK_N=tiles.columns,
        BLOCK_D=_padded(dim), PRECISION=_precision(query.dtype),
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return _combine(parts, out, dim, splits)


def _check_layout(query: Tensor, keys: Tensor, values: Tensor) -> None:
    assert keys.shape == values.shape
    assert keys.stride() == values.stride()
    assert query.stride(3) == keys.stride(3) == 1
    assert query.shape[3] == keys.shape[3]
    assert query.shape[0] == keys.shape[0]
    assert keys.dtype == values.dtype


def _padded(dim: int) -> int:
    return max(16, triton.next_power_of_2(dim))


def _precision(dtype: torch.dtype) -> str:
    return "ieee" if dtype == torch.float32 else "tf32"


def _choose_tiles(rows: int, dim: int, dtype: torch.dtype) -> _Tiles:
    """The sum of values takes rows x dim float32 registers: 128 a thread at most."""
    if dtype == torch.float32:
        chosen = _Tiles(rows=32 if _padded(dim) <= 128 else 16, columns=16, warps=4, stages=1)
    elif _padded(dim) <= 128:
        chosen = _Tiles(rows=64, columns=64, warps=4, stages=3)
    elif _padded(dim) <= 256:
        chosen = _Tiles(rows=128, columns=32, warps=8, stages=3)
    else:
        chosen = _Tiles(rows=64, columns=32, warps=8, stages=2)
    return chosen._replace(rows=min(chosen.rows, _padded(rows)))


def _choose_splits(programs: int, columns: int) -> int:
    """From the shapes of one batch row, so that batch mates do not change a row's bits."""
    return max(1, min(_PROGRAMS // programs, columns // _SHARE_COLUMNS))


def _parts(out: Tensor, splits: int, rows: int) -> _Parts:
    if splits == 1:
        return _Parts(out, out, out)
    size = (splits, rows)
    wide = torch.float32
    return _Parts(
        out.new_empty(splits, *out.shape, dtype=wide),
        out.new_empty(size, dtype=wide),
        out.new_empty(size, dtype=wide),
    )


def _combine(parts: _Parts, out: Tensor, dim: int, splits: int) -> Tensor:
    if splits > 1:
        rows, block = parts.best.shape[1], 4
        _combine_kernel[(triton.cdiv(rows, block),)](
            *parts, out, rows, D=dim, SPLITS=splits, BLOCK_M=block, BLOCK_D=_padded(dim),
            num_warps=4,
        )  # fmt: skip
    return out

"""The soft embedding: what a canvas's tempered logits say, as one vector a position.

    out = scale * sum_v p_v E_v,   p_v = exp(z_v - log_sum), rounded to the embedding's dtype

Probabilities are made of the rounded logits as these are read, and are never in memory: for a
canvas of 256 tokens and 262,144 ids that saves float32 logits and probabilities of 268 MB each,
written and read, and rounded ones of 134 MB.

One output tile is a sum over the whole vocabulary, and there are too few of them to fill a GPU:
the vocabulary is cut into a fixed number of spans, whose float32 sums a second kernel adds in
order. Neither the spans nor the order depend on the number of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_ROWS = 128
_TILE_WIDTH = 256
_TILE_IDS = 64
# 2 x 11 tiles of a canvas in the 26B model, six spans each: one program for each of an H200's
# 132 multiprocessors.
SPANS = 6
# What a program of the second kernel adds.
_TILE_SUM = 1024


@triton.jit
def _soft_span_kernel(
    logits_ptr,  # (R, V)
    log_sum_ptr,  # (R,)
    embedding_ptr,  # (V, M)
    sums_ptr,  # (spans, R, M) float32
    rows,
    IDS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,  # tiles of ids
    TILE_ROWS: tl.constexpr,
    TILE_WIDTH: tl.constexpr,
    TILE_IDS: tl.constexpr,
):
    # Neighbours share a strip of the embedding.
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    column = tl.program_id(1) * TILE_WIDTH + tl.arange(0, TILE_WIDTH)
    span = tl.program_id(2)
    row_real, column_real = (row < rows)[:, None], (column < WIDTH)[None, :]
    log_sum = tl.load(log_sum_ptr + row, mask=row < rows, other=0.0)[:, None]
    row_ptr = logits_ptr + row.to(tl.int64)[:, None] * IDS
    total = tl.zeros((TILE_ROWS, TILE_WIDTH), tl.float32)
    for step in range(SPAN):
        token = (span * SPAN + step) * TILE_IDS + tl.arange(0, TILE_IDS)
        real = token < IDS
        z = tl.load(row_ptr + token[None, :], mask=row_real & real[None, :], other=-float("inf"))
        p = tl.exp(z.to(tl.float32) - log_sum).to(embedding_ptr.dtype.element_ty)
        e_ptr = embedding_ptr + token.to(tl.int64)[:, None] * WIDTH + column[None, :]
        e = tl.load(e_ptr, mask=real[:, None] & column_real, other=0.0)
        total = tl.dot(p, e, total, input_precision="ieee")
    place = (span * rows + row).to(tl.int64)[:, None] * WIDTH + column[None, :]
    tl.store(sums_ptr + place, total, mask=row_real & column_real)


@triton.jit
def _add_kernel(sums_ptr, out_ptr, size, scale, SPANS: tl.constexpr, TILE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    real = place < size
    total = tl.zeros((TILE,), tl.float32)
    for span in tl.static_range(SPANS):
        total += tl.load(sums_ptr + place + span * tl.cast(size, tl.int64), mask=real, other=0.0)
    tl.store(out_ptr + place, (total * scale).to(out_ptr.dtype.element_ty), mask=real)


def soft_embed(logits: Tensor, log_sum: Tensor, embedding: Tensor, *, scale: float) -> Tensor:
    """logits (R, V) tempered, embedding (V, M), of one dtype; log_sum (R,) float32, the
    log-sum-exp of exactly these logits -> (R, M) in that dtype.

    `scale` is what the model's embeddings are scaled by (trap 14: 53.0 in bf16, not 53.066).
    """
    rows, ids = logits.shape
    width = embedding.shape[1]
    assert (len(embedding), embedding.dtype) == (ids, logits.dtype)
    assert (log_sum.shape, log_sum.dtype) == ((rows,), torch.float32)
    assert all(t.is_contiguous() for t in (logits, embedding, log_sum))

    sums = torch.empty(SPANS, rows, width, dtype=torch.float32, device=logits.device)
    grid = (triton.cdiv(rows, _TILE_ROWS), triton.cdiv(width, _TILE_WIDTH), SPANS)
    _soft_span_kernel[grid](
        logits, log_sum, embedding, sums, rows,
        IDS=ids, WIDTH=width, SPAN=triton.cdiv(ids, _TILE_IDS * SPANS),
        TILE_ROWS=_TILE_ROWS, TILE_WIDTH=_TILE_WIDTH, TILE_IDS=_TILE_IDS,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    out = torch.empty(rows, width, dtype=logits.dtype, device=logits.device)
    _add_kernel[(triton.cdiv(out.numel(), _TILE_SUM),)](
        sums, out, out.numel(), scale, SPANS=SPANS, TILE=_TILE_SUM, num_warps=4
    )
    return out

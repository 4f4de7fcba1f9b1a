"""The head, what its logits say, and one token a row, without float32 logits in memory.

    z = cap * tanh(h E^T / cap) / temperature        entropy = log S - W / S
    S = sum_v exp(z_v - max z),  W = sum_v exp(z_v - max z) (z_v - max z)
    sampled = the first id whose cumulative probability passes the row's uniform

Two kernels. The first computes a tile of logits, rounds it for the soft embedding, and keeps of
its float32 values five numbers a row: the highest, where it is, its share of S and of W, and the
share of S that the rounded values have. The second joins a row's tiles in a fixed order, finds the
tile that the uniform falls into, and computes the logits of that one tile again in float32.

For a canvas of 256 tokens and 262,144 ids, float32 logits and what softmax, entropy and sampling
make of them are 268 MB each, written and read some ten times; here 134 MB are written once, and
184 MB of the embedding are read again. The product keeps its float32 sum: the definition in
`Network.head` rounds it to the model's dtype, which makes ties that are none.

A row's tiles, and the order in which they are joined, do not depend on the other rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_ROWS = 128
_TILE_IDS = 128
_TILE_HIDDEN = 64
# The second kernel's product is one row's: read as it comes, not multiplied by tensor cores.
_STRIP_HIDDEN = 64
# Stands for the logits of ids that there are not: its exponential is 0, and unlike that of
# infinity, so is 0 times it.
_FLOOR = tl.constexpr(-1e30)


class HeadOutput(NamedTuple):
    """What the head says of R rows.

    logits (R, V): tempered, rounded to the hidden states' dtype. log_sum (R,): the log-sum-exp of
    exactly these rounded logits, by which `soft_embed` normalises. argmax and sampled (R,) int64.
    entropy (R,) in nats, of the float32 logits. All float32.
    """

    logits: Tensor
    log_sum: Tensor
    argmax: Tensor
    sampled: Tensor
    entropy: Tensor


@triton.jit
def _tempered(product, temperature, CAP: tl.constexpr):
    # tanh x = 1 - 2 / (exp 2x + 1): where exp overflows, that is 1.
    return (1.0 - 2.0 / (tl.exp(product * (2.0 / CAP)) + 1.0)) * (CAP / temperature)


@triton.jit
def _head_logits_kernel(
    hidden_ptr,  # (R, M)
    head_ptr,  # (V, M)
    temperature_ptr,  # (R,)
    logits_ptr,  # (R, V)
    parts_ptr,  # (R, 4, T) float32: highest, share of S, share of W, rounded share
    argmax_ptr,  # (R, T) int32
    rows,
    IDS: tl.constexpr,
    WIDTH: tl.constexpr,
    COUNT: tl.constexpr,
    CAP: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_IDS: tl.constexpr,
    TILE_HIDDEN: tl.constexpr,
):
    # Neighbours share a tile of the embedding: it is read from memory once.
    row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    tile = tl.program_id(1)
    token = tile * TILE_IDS + tl.arange(0, TILE_IDS)
    column = tl.arange(0, TILE_HIDDEN)
    row_real, token_real = row < rows, token < IDS
    x_ptr = hidden_ptr + row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    e_ptr = head_ptr + token.to(tl.int64)[:, None] * WIDTH + column[None, :]
    product = tl.zeros((TILE_ROWS, TILE_IDS), tl.float32)
    for start in range(0, WIDTH, TILE_HIDDEN):
        inside = (column < WIDTH - start)[None, :]
        x = tl.load(x_ptr + start, mask=row_real[:, None] & inside, other=0.0)
        e = tl.load(e_ptr + start, mask=token_real[:, None] & inside, other=0.0)
        product = tl.dot(x, tl.trans(e), product, input_precision="ieee")

    temperature = tl.load(temperature_ptr + row, mask=row_real, other=1.0)
    z = _tempered(product, temperature[:, None], CAP)
    rounded = z.to(logits_ptr.dtype.element_ty)
    place = row.to(tl.int64)[:, None] * IDS + token[None, :]
    tl.store(logits_ptr + place, rounded, mask=row_real[:, None] & token_real[None, :])

    z = tl.where(token_real[None, :], z, _FLOOR)
    highest = tl.max(z, 1)
    argmax = tl.min(tl.where(z == highest[:, None], token[None, :], IDS), 1)
    below = z - highest[:, None]
    share = tl.exp(below)
    # Rounding keeps the order, so that the highest rounded one is the highest one rounded.
    rounded_highest = highest.to(rounded.dtype).to(tl.float32)
    rounded_share = tl.exp(z.to(rounded.dtype).to(tl.float32) - rounded_highest[:, None])

    part = parts_ptr + row.to(tl.int64) * 4 * COUNT + tile
    tl.store(part, highest, mask=row_real)
    tl.store(part + COUNT, tl.sum(share, 1), mask=row_real)
    tl.store(part + 2 * COUNT, tl.sum(share * below, 1), mask=row_real)
    tl.store(part + 3 * COUNT, tl.sum(rounded_share, 1), mask=row_real)
    tl.store(argmax_ptr + row.to(tl.int64) * COUNT + tile, argmax, mask=row_real)


@triton.jit
def _first_past(share, target, SIZE: tl.constexpr):
    """The first place with a share whose cumulative sum passes the target.

    Where rounding leaves the target at the sum or above, the last place that raised the sum. A
    place without a share is passed over: a scan need not be monotone in its last bits.
    """
    cumulative = tl.cumsum(share, 0)
    reached = (cumulative > target) | (cumulative >= tl.max(cumulative, 0))
    place = tl.arange(0, SIZE)
    return tl.min(tl.where(reached & (share > 0), place, SIZE), 0)


@triton.jit
def _read_kernel(
    hidden_ptr,  # (R, M)
    head_ptr,  # (V, M)
    temperature_ptr,  # (R,)
    uniform_ptr,  # (R,)
    parts_ptr,  # (R, 4, T)
    tile_argmax_ptr,  # (R, T)
    log_sum_ptr,  # (R,), as all that follow
    argmax_ptr,
    sampled_ptr,
    entropy_ptr,
    IDS: tl.constexpr,
    WIDTH: tl.constexpr,
    COUNT: tl.constexpr,
    CAP: tl.constexpr,
    TILES: tl.constexpr,
    TILE_IDS: tl.constexpr,
    STRIP_HIDDEN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    real = tile < COUNT
    part = parts_ptr + row * 4 * COUNT + tile
    tile_highest = tl.load(part, mask=real, other=_FLOOR)
    highest = tl.max(tile_highest, 0)
    below = tile_highest - highest
    factor = tl.exp(below)
    tile_share = tl.load(part + COUNT, mask=real, other=0.0)
    weighted = tl.load(part + 2 * COUNT, mask=real, other=0.0)
    share = tile_share * factor
    total = tl.sum(share, 0)
    drop = tl.sum(factor * (weighted + tile_share * below), 0)
    tile_argmax = tl.load(tile_argmax_ptr + row * COUNT + tile, mask=real, other=0)
    argmax = tl.min(tl.where(tile_highest == highest, tile_argmax, IDS), 0)

    dtype = hidden_ptr.dtype.element_ty
    rounded_highest = highest.to(dtype).to(tl.float32)
    rounded_factor = tl.exp(tile_highest.to(dtype).to(tl.float32) - rounded_highest)
    rounded_share = tl.load(part + 3 * COUNT, mask=real, other=0.0) * rounded_factor

    # A row of NaN has no highest: whatever comes of it, the ids stay ids.
    tl.store(argmax_ptr + row, tl.minimum(argmax, IDS - 1).to(tl.int64))
    tl.store(log_sum_ptr + row, rounded_highest + tl.log(tl.sum(rounded_share, 0)))
    tl.store(entropy_ptr + row, tl.log(total) - drop / total)

    target = tl.load(uniform_ptr + row) * total
    chosen = _first_past(share, target, TILES)
    earlier = tl.sum(tl.where(tile < chosen, share, 0.0), 0)

    token = chosen * TILE_IDS + tl.arange(0, TILE_IDS)
    token_real = token < IDS
    column = tl.arange(0, STRIP_HIDDEN)
    e_ptr = head_ptr + token.to(tl.int64)[:, None] * WIDTH + column[None, :]
    product = tl.zeros((TILE_IDS, STRIP_HIDDEN), tl.float32)
    for start in range(0, WIDTH, STRIP_HIDDEN):
        inside = column < WIDTH - start
        x = tl.load(hidden_ptr + row * WIDTH + start + column, mask=inside, other=0.0)
        e = tl.load(e_ptr + start, mask=token_real[:, None] & inside[None, :], other=0.0)
        product += x.to(tl.float32)[None, :] * e.to(tl.float32)
    z = _tempered(tl.sum(product, 1), tl.load(temperature_ptr + row), CAP)
    token_share = tl.exp(tl.where(token_real, z, _FLOOR) - highest)
    sampled = chosen * TILE_IDS + _first_past(token_share, target - earlier, TILE_IDS)
    tl.store(sampled_ptr + row, tl.minimum(sampled, IDS - 1).to(tl.int64))


def head(
    hidden: Tensor,
    embedding: Tensor,
    *,
    cap: float,
    temperature: Tensor,
    uniform: Tensor,
) -> HeadOutput:
    """hidden (R, M) and embedding (V, M) in one dtype, temperature (R,) and uniform (R,) float32.

    `cap` is the softcap. Nothing waits for the device; the grid depends on shapes alone.
    """
    rows, width = hidden.shape
    ids = len(embedding)
    assert (embedding.shape[1], embedding.dtype) == (width, hidden.dtype)
    for given in (temperature, uniform):
        assert (given.shape, given.dtype) == ((rows,), torch.float32)
    assert all(t.is_contiguous() for t in (hidden, embedding, temperature, uniform))

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=hidden.device)

    tiles = triton.cdiv(ids, _TILE_IDS)
    logits = empty(rows, ids, dtype=hidden.dtype)
    parts, tile_argmax = empty(rows, 4, tiles), empty(rows, tiles, dtype=torch.int32)
    _head_logits_kernel[(triton.cdiv(rows, _TILE_ROWS), tiles)](
        hidden, embedding, temperature, logits, parts, tile_argmax, rows,
        IDS=ids, WIDTH=width, COUNT=tiles, CAP=cap,
        TILE_ROWS=_TILE_ROWS, TILE_IDS=_TILE_IDS, TILE_HIDDEN=_TILE_HIDDEN,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    out = HeadOutput(
        logits=logits,
        log_sum=empty(rows),
        argmax=empty(rows, dtype=torch.int64),
        sampled=empty(rows, dtype=torch.int64),
        entropy=empty(rows),
    )
    _read_kernel[(rows,)](
        hidden, embedding, temperature, uniform, parts, tile_argmax, *out[1:],
        IDS=ids, WIDTH=width, COUNT=tiles, CAP=cap,
        TILES=triton.next_power_of_2(tiles), TILE_IDS=_TILE_IDS, STRIP_HIDDEN=_STRIP_HIDDEN,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return out

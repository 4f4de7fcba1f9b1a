"""Who sees whom: new columns in a causal pass (model-spec §4), and a canvas behind them (§5)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gesso.kernels import choice
from gesso.kernels.attention import attention

# query (B, H, n, D), key and value (B, K, S, D) -> (B, n, H * D).
Look = Callable[[Tensor, Tensor, Tensor], Tensor]


def causal_look(
    query: Tensor,
    *,
    columns: int,
    kept: int,
    window: int | None,
    padding: Tensor | None,
    blocks: Tensor | None,
) -> Look:
    """Attention of new columns as `causal_mask` says, for queries like this one: on a GPU without
    a mask in memory, which would grow with the prompt."""
    if padding is None and choice.runs_kernels(query):
        from gesso.kernels.gpu.span_attention import causal_spans, span_attention

        before = torch.full((len(query),), kept, device=query.device)
        spans = causal_spans(before, columns=columns, window=window, blocks=blocks)
        return partial(span_attention, spans=spans)
    mask = causal_mask(
        columns=columns,
        kept=kept,
        window=window,
        padding=padding,
        blocks=blocks,
        device=query.device,
    )
    return partial(attention, mask=mask, causal=mask is None)


def look_from_canvas(
    query: Tensor, keys: Tensor, values: Tensor, own_keys: Tensor, own_values: Tensor
) -> Tensor:
    """Attention of a canvas to all of these columns and to all of its own."""
    if choice.runs_kernels(query):
        from gesso.kernels.gpu.canvas_attention import canvas_attention

        length = torch.full((len(query),), keys.shape[2], device=query.device)
        return canvas_attention(query, keys, values, own_keys, own_values, length=length)
    joined = (torch.cat(pair, 2) for pair in ((keys, own_keys), (values, own_values)))
    return attention(query, *joined)


def causal_mask(
    *,
    columns: int,
    kept: int,
    window: int | None,
    padding: Tensor | None,
    blocks: Tensor | None,
    device: torch.device,
) -> Tensor | None:
    """Keys that each of the new columns may look at, or None for the plain triangle.

    kept: cached columns before the new ones. window: a query sees itself and window - 1 earlier
    columns; None: all earlier ones. padding (B, kept + columns) bool: real columns. blocks
    (B, columns) int64: columns of one image share a number above 0 and see each other whatever
    the order and the window. Returns (B or 1, 1, columns, kept + columns) bool.
    """
    banded = window is not None and kept + columns > window
    if kept == 0 and padding is None and blocks is None and not banded:
        return None
    key = torch.arange(kept + columns, device=device)
    query = key[kept:, None]  # (columns, 1)
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    seen = seen[None, None]
    if blocks is not None:
        same = (blocks[:, :, None] == blocks[:, None, :]) & (blocks[:, :, None] > 0)
        same = torch.nn.functional.pad(same, (kept, 0))  # (B, columns, kept + columns)
        seen = seen | same[:, None]
    if padding is not None:
        # A padding column's own row is never read, but it must not be empty: softmax over nothing
        # is NaN, and NaN times a zero weight is NaN in every row that follows.
        seen = (seen & padding[:, None, None]) | (key == query)
    return seen


def image_blocks(is_image: Tensor) -> Tensor | None:
    """(B, n) bool -> (B, n) int64: 0 outside images, else the number of the run of image tokens."""
    if not bool(is_image.any()):
        return None
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    return starts.long().cumsum(1) * is_image

"""Rows to batches.

A batch is a function of (config, step) alone, so that a resumed run sees the same data: rows
are drawn in chunks of many batches, each chunk seeded by its number, sorted by length so that
little is padded, and its batches shuffled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.training.sources import Row, Source

_CHUNK_BATCHES = 32


class Batch(NamedTuple):
    """Rows laid out as [prompt ; answer ; fill], right-padded with the fill's id.

    ids (B, S) int64; the last canvas of each row is filled to its end with the end-of-sequence
    id. prompt_length, answer_length, canvases (B,) int64.
    """

    ids: Tensor
    prompt_length: Tensor
    answer_length: Tensor
    canvases: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(tensor.to(device) for tensor in self))

    def rows(self, rows: slice | Tensor) -> Batch:
        return Batch(*(tensor[rows] for tensor in self))


def collate(rows: Sequence[Row], *, canvas_length: int, fill_id: int) -> Batch:
    canvases = [-(-len(row.answer) // canvas_length) for row in rows]
    width = max(len(row.prompt) + n * canvas_length for row, n in zip(rows, canvases, strict=True))
    ids = torch.full((len(rows), width), fill_id, dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens = row.prompt + row.answer
        ids[i, : len(tokens)] = torch.tensor(tokens)
    return Batch(
        ids,
        torch.tensor([len(row.prompt) for row in rows]),
        torch.tensor([len(row.answer) for row in rows]),
        torch.tensor(canvases),
    )


class Batches:
    """Batches of a mixture of sources, each with its share of the rows."""

    def __init__(
        self,
        shares: Mapping[Source, float],
        *,
        batch_size: int,
        canvas_length: int,
        fill_id: int,
        seed: int,
    ) -> None:
        self._counts = _apportion(shares, batch_size * _CHUNK_BATCHES)
        self._batch_size = batch_size
        self._canvas_length = canvas_length
        self._fill_id = fill_id
        self._seed = seed
        self._chunk: tuple[int, list[list[Row]]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of a step, always the same one."""
        number, place = divmod(step, _CHUNK_BATCHES)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = number, self._make_chunk(number)
        return collate(
            self._chunk[1][place], canvas_length=self._canvas_length, fill_id=self._fill_id
        )

    def _make_chunk(self, number: int) -> list[list[Row]]:
        rows = [
            row
            for source, count in self._counts.items()
            for row in source.rows(number * count, count, seed=self._seed)
        ]
        rows.sort(key=lambda row: (-(-len(row.answer) // self._canvas_length), len(row.prompt)))
        size = self._batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        random.Random(f"{self._seed}:{number}").shuffle(batches)
        return batches


def _apportion(shares: Mapping[Source, float], rows: int) -> dict[Source, int]:
    """So many rows of each source, by largest remainder, at least one of each where there is
    room."""
    total = sum(shares.values())
    exact = {source: rows * share / total for source, share in shares.items()}
    counts = {source: max(1, int(amount)) for source, amount in exact.items()}
    by_remainder = sorted(exact, key=lambda source: counts[source] - exact[source])
    for source in by_remainder[: max(0, rows - sum(counts.values()))]:
        counts[source] += 1
    while (over := sum(counts.values()) - rows) > 0:
        largest = max(counts, key=lambda source: counts[source])
        counts[largest] -= min(over, counts[largest])
    return {source: count for source, count in counts.items() if count}

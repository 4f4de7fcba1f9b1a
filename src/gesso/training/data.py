"""Rows to batches.

A batch is a function of (config, step) alone, so that a resumed run sees the same data: rows
are drawn in chunks of many batches, each chunk seeded by its number, sorted by length so that
little is padded, and its batches shuffled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.training.sources import Row, Source

# Batches of a chunk.
CHUNK_BATCHES = 32


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
    """Batches of a mixture of sources, each with its share of the rows, over many chunks where a
    chunk has no room for it."""

    def __init__(
        self,
        shares: Mapping[Source, float],
        *,
        batch_size: int,
        canvas_length: int,
        fill_id: int,
        seed: int,
    ) -> None:
        self._shares = shares
        self._batch_size = batch_size
        self._canvas_length = canvas_length
        self._fill_id = fill_id
        self._seed = seed
        self._chunk: tuple[int, list[list[Row]]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of a step, always the same one."""
        number, place = divmod(step, CHUNK_BATCHES)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = number, self._make_chunk(number)
        return collate(
            self._chunk[1][place], canvas_length=self._canvas_length, fill_id=self._fill_id
        )

    def _make_chunk(self, number: int) -> list[list[Row]]:
        size = self._batch_size * CHUNK_BATCHES
        before, after = (_apportion(self._shares, size * n) for n in (number, number + 1))
        rows = [
            row
            for source, first in before.items()
            if (count := after[source] - first)
            for row in source.rows(first, count, seed=self._seed)
        ]
        rows.sort(key=lambda row: (-(-len(row.answer) // self._canvas_length), len(row.prompt)))
        size = self._batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        random.Random(f"{self._seed}:{number}").shuffle(batches)
        return batches


def _apportion(shares: Mapping[Source, float], rows: int) -> dict[Source, int]:
    """How many of a run's first rows are each source's: with more rows never fewer of any (the
    method of Sainte-Laguë: a source's row number a comes at (a + 1/2) / share)."""
    total = sum(map(Fraction, shares.values()))
    # Exact, for rows that come at the same place must not change their order.
    exact = {source: Fraction(share) / total for source, share in shares.items()}
    half = Fraction(1, 2)
    # So early all of them together have at most `rows`, and at most one each too few.
    early = max(Fraction(0), rows - len(exact) * half)
    counts = {source: int(share * early + half) for source, share in exact.items()}
    while sum(counts.values()) < rows:
        counts[min(exact, key=lambda source: (counts[source] + half) / exact[source])] += 1
    return counts

"""Examples to token rows, and rows to batches.

A batch is a function of (config, step) alone, so that a resumed run sees the same data: examples
are drawn in chunks of many batches, each chunk seeded by its number, sorted by length so that
little is padded, and its batches shuffled.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.processor import Processor
from gesso.tasks import Example, get_task

_CHUNK_BATCHES = 32


class Row(NamedTuple):
    """Token ids of one example: the prompt, and the answer with its closing token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Batch(NamedTuple):
    """Rows laid out as [prompt ; answer ; fill], right-padded with the fill's id.

    ids (B, S) int64; the last canvas of each row is filled to its end with the end-of-sequence
    id. prompt_length, answer_length, canvases (B,) int64.
    """

    ids: Tensor
    prompt_length: Tensor
    answer_length: Tensor
    canvases: Tensor


def tokenize(example: Example, processor: Processor) -> Row:
    """The answer ends with the turn's closing token, as the model will have to write it."""
    answer = processor.tokenizer.encode(example.completion)
    return Row(
        tuple(processor.encode_prompt(example.prompt)),
        (*answer, processor.end_of_turn_id),
    )


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


class TaskData:
    """Batches of a mixture of tasks' training splits."""

    def __init__(
        self,
        tasks: Mapping[str, float],
        processor: Processor,
        *,
        batch_size: int,
        canvas_length: int,
        fill_id: int,
        seed: int,
    ) -> None:
        self._tasks = {get_task(name): share for name, share in tasks.items()}
        self._processor = processor
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
        rng = random.Random(f"{self._seed}:{number}")
        streams = [task.examples(split="train", seed=rng.getrandbits(48)) for task in self._tasks]
        shares = list(self._tasks.values())
        picks = rng.choices(streams, shares, k=self._batch_size * _CHUNK_BATCHES)
        rows = [tokenize(next(stream), self._processor) for stream in picks]
        rows.sort(key=lambda row: (-(-len(row.answer) // self._canvas_length), len(row.prompt)))
        size = self._batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(batches)
        return batches

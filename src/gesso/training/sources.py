"""Where rows of tokens come from: a task's endless examples, or a file's rows over and over.

A source is asked for rows by number, so that what a step sees is a function of the step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gesso.processor import Processor
from gesso.tasks import Example, Task


class Row(NamedTuple):
    """Token ids of one example: the prompt, and the answer with its closing token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Source(Protocol):
    def rows(self, first: int, count: int, *, seed: int) -> Sequence[Row]:
        """Rows number first .. first + count - 1 of the run with that seed."""
        ...


class TaskSource:
    """New examples of a task's training split, without end."""

    def __init__(self, task: Task, processor: Processor) -> None:
        self._task = task
        self._processor = processor

    def rows(self, first: int, count: int, *, seed: int) -> Sequence[Row]:
        stream_seed = random.Random(f"{self._task.name}:{seed}:{first}").getrandbits(48)
        examples = self._task.examples(split="train", seed=stream_seed)
        return [tokenize(example, self._processor) for example in itertools.islice(examples, count)]


class FixedSource:
    """The same rows in every epoch, each once, in an order of the epoch's own."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def rows(self, first: int, count: int, *, seed: int) -> Sequence[Row]:
        size = len(self._rows)
        picked: list[Row] = []
        for number in range(first // size, (first + count - 1) // size + 1):
            order = random.Random(f"{seed}:{number}").sample(range(size), size)
            start = max(0, first - number * size)
            stop = min(size, first + count - number * size)
            picked += [self._rows[place] for place in order[start:stop]]
        return picked


def tokenize(example: Example, processor: Processor) -> Row:
    """The answer ends with the turn's closing token, as the model will have to write it."""
    answer = processor.tokenizer.encode(example.completion)
    return Row(
        tuple(processor.encode_prompt(example.prompt)),
        (*answer, processor.end_of_turn_id),
    )

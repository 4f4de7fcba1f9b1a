"""A Task yields examples, each with a prompt and the answer wanted, and judges an answer.

Training and evaluation read the same object, so what is taught is what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Example:
    """A user's turn, or chat messages up to one, and the answer wanted.

    `info` carries what a verdict or a report needs beyond the text (the form's name, say).
    """

    prompt: str | Sequence[Mapping[str, Any]]
    completion: str
    info: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A source of examples with a judge.

    `splits` names what `examples` accepts; "train" is the one that training may read, and every
    other split is disjoint from it in the way that its entry says.
    """

    name: str
    splits: Mapping[str, str]

    def examples(self, *, split: str, seed: int) -> Iterator[Example]:
        """A stream, the same for the same split and seed; of "train" it has no end.

        ValueError: unknown split.
        """
        ...

    def verdict(self, example: Example, text: str) -> Mapping[str, float]:
        """Named verdicts on an answer, each a share between 0 and 1; "exact" is always there."""
        ...


def check_split(task: Task, split: str) -> None:
    """ValueError when the task has no such split."""
    if split not in task.splits:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(task.splits)}")

"""A file of a user's own examples as a task: what a model fine-tuned on one is measured with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from gesso.tasks.jsonl import examples_of, quoted, read_lines
from gesso.tasks.same import same
from gesso.tasks.task import Example, check_split


class FileTask:
    """The examples of a JSONL file (`gesso.tasks.jsonl` says how they are written).

    They come in an order of the seed's, each once. ValueError: no such file, nothing in it, or bad
    lines, by number.
    """

    splits: Mapping[str, str] = {"held": "the lines of a file"}

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._examples, bad = read_lines(path, _numbered)
        if bad:
            raise ValueError(f"{path}: {len(bad)} bad lines; mend them: {quoted(bad)}")
        if not self._examples:
            raise ValueError(f"{path}: no example in it; add some")
        self._all_json = all(_json(e.completion) is not None for e in self._examples)

    def examples(self, *, split: str, seed: int) -> Iterator[Example]:
        """All of the file, once. ValueError: unknown split."""
        check_split(self, split)
        return iter(Random(seed).sample(self._examples, len(self._examples)))

    def verdict(self, example: Example, text: str) -> dict[str, bool]:
        """exact: the text wanted, or the same JSON, whatever its spacing and the order of its keys.

        parses: it is JSON, where all answers of the file are.
        """
        target = example.completion.strip()
        wanted, got = _json(target), _json(text)
        exact = text.strip() == target or (wanted is not None and same(got, wanted))
        return {"exact": exact} | ({"parses": got is not None} if self._all_json else {})


def _numbered(record: Any, line: int) -> list[Example]:
    return [replace(example, info={"line": line}) for example in examples_of(record)]


def _json(text: str) -> Any:
    """The object or list that a text is in JSON; None: it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None

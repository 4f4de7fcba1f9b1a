"""`gesso generate --lines`: a prompt a line, and in the same order an answer a line.

The prompts share forwards (`Engine.answers`); an answer is printed once all before it are there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gesso.generation.events import Result
    from gesso.generation.model import DiffusionGemma, Prompt


class Line(NamedTuple):
    """number: counted from 1, blank lines too."""

    number: int
    text: str


def read_lines(name: str) -> list[Line]:
    """Those of a file, or of stdin ("-"), that are not blank. ValueError: none, or no file."""
    if name == "-":
        lines = [] if sys.stdin.isatty() else sys.stdin.read().split("\n")
    else:
        lines = _read(name).split("\n")
    found = [Line(i, line.rstrip("\r")) for i, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"--lines: {name} has no line with a prompt; give one prompt a line")
    return found


def check(
    model: DiffusionGemma, lines: Sequence[Line], prompts: Sequence[Prompt], options: dict[str, Any]
) -> None:
    """ValueError says in which line a mistake is."""
    parameters = dict(options)
    how = {name: parameters.pop(name) for name in ("raw", "thinking")}
    for line, prompt in zip(lines, prompts, strict=True):
        try:
            model.request(prompt, parameters, **how)
        except ValueError as error:
            raise ValueError(f"--lines: line {line.number}: {error}") from None


def answers(
    model: DiffusionGemma, prompts: Sequence[Prompt], options: dict[str, Any]
) -> Iterator[Result]:
    """In the order of the prompts, each as soon as it and all before it are there."""
    from gesso.engine import Engine

    waiting: dict[int, Result] = {}
    told = 0
    for place, result in Engine(model).answers(prompts, **options):
        waiting[place] = result
        while told in waiting:
            yield waiting.pop(told)
            told += 1


def on_one_line(text: str) -> str:
    """An answer as it stands; one that has line breaks within as a JSON string."""
    text = text.rstrip("\n")
    return json.dumps(text, ensure_ascii=False) if "\n" in text or "\r" in text else text


def _read(name: str) -> str:
    try:
        # With the mark that some editors put first; bytes that are no text are refused as prompts.
        with open(name, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"--lines: {name}: {why}; give a text file, or - for stdin") from None

"""A user's JSONL file to rows: chat messages, or prompt and completion, one example a line.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}

Every assistant message is an answer to be learned, with all that comes before it as its prompt.
All lines are read before training starts, and every bad one is reported with its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gesso.processor import Processor
from gesso.training.sources import Row

# So many bad lines are quoted in an error; the rest are counted.
_QUOTED = 10


class Rows(NamedTuple):
    """What a file holds: rows to train on, and how many bad lines were left out."""

    rows: list[Row]
    skipped: int


def read_jsonl(path: Path, processor: Processor, *, longest: int, skip_bad: bool = False) -> Rows:
    """All rows of a file, in order. longest: most tokens of a row.

    ValueError: no such file, nothing in it, or bad lines, by number; with skip_bad they are left
    out and counted.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a JSONL file, one example a line")
    rows: list[Row] = []
    bad: list[str] = []
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows += _rows(line, processor, longest)
            except ValueError as error:
                bad.append(f"line {number}: {error}")
    report_bad(path, "lines", bad, skip_bad=skip_bad, found=len(rows))
    return Rows(rows, len(bad))


def report_bad(path: Path, what: str, bad: list[str], *, skip_bad: bool, found: int) -> None:
    """ValueError for what is bad, unless it may be skipped, and when nothing was found."""
    if bad and not skip_bad:
        more = f"; and {len(bad) - _QUOTED} more" if len(bad) > _QUOTED else ""
        raise ValueError(
            f"{path}: {len(bad)} bad {what}; mend them, or leave them out with --skip-bad: "
            f"{'; '.join(bad[:_QUOTED])}{more}"
        )
    if not found:
        raise ValueError(f"{path}: no example to train on ({len(bad)} bad {what}); add some")


def _rows(line: str, processor: Processor, longest: int) -> list[Row]:
    """All rows of a line, or none and a ValueError."""
    try:
        line.encode()
        example = json.loads(line)
    except UnicodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(example, dict):
        raise ValueError(f"a JSON {type(example).__name__}; expected an object")
    rows = []
    for prompt, answer in _pairs(example):
        prompt_ids = processor.encode_prompt(prompt)
        answer_ids = [*processor.tokenizer.encode(answer), processor.end_of_turn_id]
        if (length := len(prompt_ids) + len(answer_ids)) > longest:
            raise ValueError(f"{length:,} tokens; at most {longest:,} fit the context")
        rows.append(Row(tuple(prompt_ids), tuple(answer_ids)))
    return rows


def _pairs(example: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """(prompt, answer) of an example: a string or messages, and text."""
    if "messages" in example and not example.keys() & {"prompt", "completion"}:
        messages = example["messages"]
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise ValueError("messages is not a list of objects")
        answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        if not answers or answers[0] == 0:
            raise ValueError("no assistant message with another one before it")
        if answers[-1] != len(messages) - 1:
            raise ValueError("the last message is not the assistant's: nobody learns from it")
        for place in answers:
            yield messages[:place], _answer(messages[place], f"messages[{place}]")
    elif {"prompt", "completion"} <= example.keys() and "messages" not in example:
        if not isinstance(example["prompt"], str):
            raise ValueError(f"prompt is a {type(example['prompt']).__name__}; expected text")
        yield example["prompt"], _text(example["completion"], "completion")
    else:
        raise ValueError(
            f"keys {', '.join(map(str, example)) or 'none'}; "
            "expected messages, or prompt and completion"
        )


def _answer(message: dict[str, Any], where: str) -> str:
    extra = sorted(message.keys() - {"role", "content", "name"})
    if any(message[key] for key in extra):
        raise ValueError(f"{where} has {extra[0]}, which cannot be trained on yet; text can")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {} for part in content]
        if kinds := [str(part.get("type")) for part in parts if part.get("type") != "text"]:
            raise ValueError(f"{where} has a part of type {kinds[0]}; an answer is text")
        content = "".join(_text(part.get("text"), f"{where}: a part's text") for part in parts)
    return _text(content, f"{where}: content")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is a {type(value).__name__}; expected text")
    if not value.strip():
        raise ValueError(f"{what} is empty; nothing is learned from it")
    return value

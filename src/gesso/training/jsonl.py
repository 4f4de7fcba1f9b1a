"""A user's examples to rows: chat messages, or prompt and completion.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}

Every assistant message is an answer to be learned, with all that comes before it as its prompt.
They come from a JSONL file, one a line, or from any iterable of such objects, a Hugging Face
dataset for one. All are read before training starts, and every bad one is reported by number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
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
                rows += _rows(_parse(line), processor, longest)
            except ValueError as error:
                bad.append(f"line {number}: {error}")
    report_bad(str(path), "lines", bad, skip_bad=skip_bad, found=len(rows))
    return Rows(rows, len(bad))


def read_records(
    records: Iterable[Mapping[str, Any]],
    processor: Processor,
    *,
    longest: int,
    skip_bad: bool = False,
) -> Rows:
    """As `read_jsonl`, from objects in memory; keys whose value is None are as good as absent."""
    rows: list[Row] = []
    bad: list[str] = []
    for number, record in enumerate(records):
        try:
            rows += _rows(_without_none(record), processor, longest)
        except ValueError as error:
            bad.append(f"record {number}: {error}")
    report_bad(type(records).__name__, "records", bad, skip_bad=skip_bad, found=len(rows))
    return Rows(rows, len(bad))


def report_bad(name: str, what: str, bad: list[str], *, skip_bad: bool, found: int) -> None:
    """ValueError for what is bad, unless it may be skipped, and when nothing was found."""
    if bad and not skip_bad:
        more = f"; and {len(bad) - _QUOTED} more" if len(bad) > _QUOTED else ""
        raise ValueError(
            f"{name}: {len(bad)} bad {what}; mend them, or leave them out with --skip-bad: "
            f"{'; '.join(bad[:_QUOTED])}{more}"
        )
    if not found:
        raise ValueError(f"{name}: no example to train on ({len(bad)} bad {what}); add some")


def _parse(line: str) -> Any:
    try:
        line.encode()
        return json.loads(line)
    except UnicodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None


def _without_none(value: Any) -> Any:
    """A table has every key in every row, and in every message: those not given are None."""
    if isinstance(value, Mapping):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


def _rows(example: Any, processor: Processor, longest: int) -> list[Row]:
    """All rows of an example, or none and a ValueError."""
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

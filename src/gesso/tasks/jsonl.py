"""A user's examples: chat messages, or prompt and completion, one JSON object a line.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}

Every assistant message is an answer, with all that comes before it as its prompt, but those of
"weight" 0, which are only read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from gesso.tasks.task import Example

T = TypeVar("T")

# What an example may not say beside its text: it would be lost without a word.
_UNREAD = ("tools", "functions", "system", "images", "videos", "audios", "documents", "rejected")
# So many bad lines are quoted in an error; the rest are counted.
_QUOTED = 10


def examples_of(record: Any) -> list[Example]:
    """All examples of a parsed line. ValueError: what is wrong with it, and then none counts."""
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}; expected an object")
    if lost := [key for key in _UNREAD if record.get(key)]:
        raise ValueError(f"{lost[0]} is not read yet; put it into the messages, or leave it out")
    return list(_examples(record))


def read_lines(path: Path, use: Callable[[Any, int], list[T]]) -> tuple[list[T], list[str]]:
    """What `use` makes of every parsed line that is not blank and its number; and what is bad.

    ValueError: no such file. What `use` raises as a ValueError makes its line a bad one.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a JSONL file, one example a line")
    found: list[T] = []
    bad: list[str] = []
    # With the mark that some editors put before the first line, or without.
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found += use(_parse(line), number)
            except ValueError as error:
                bad.append(f"line {number}: {error}")
    return found, bad


def quoted(bad: list[str]) -> str:
    """The first few in words, the others counted."""
    more = f"; and {len(bad) - _QUOTED} more" if len(bad) > _QUOTED else ""
    return "; ".join(bad[:_QUOTED]) + more


def _parse(line: str) -> Any:
    try:
        line.encode()
        return json.loads(line)
    except UnicodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None


def _examples(record: dict[str, Any]) -> Iterator[Example]:
    if "messages" in record and not record.keys() & {"prompt", "completion"}:
        messages = record["messages"]
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            raise ValueError("messages is not a list of objects")
        answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        if not answers or answers[0] == 0:
            raise ValueError("no assistant message with another one before it")
        if answers[-1] != len(messages) - 1:
            raise ValueError("the last message is not the assistant's: nobody learns from it")
        learned = [i for i in answers if _weight(messages[i], f"messages[{i}]")]
        if not learned:
            raise ValueError("every assistant message has weight 0: nothing is learned from it")
        for place in learned:
            answer = _answer(messages[place], f"messages[{place}]")
            yield Example(prompt=messages[:place], completion=answer)
    elif {"prompt", "completion"} <= record.keys() and "messages" not in record:
        if not isinstance(record["prompt"], str):
            raise ValueError(f"prompt is a {type(record['prompt']).__name__}; expected text")
        answer = _text(record["completion"], "completion")
        yield Example(prompt=record["prompt"], completion=answer)
    else:
        raise ValueError(
            f"keys {', '.join(map(str, record)) or 'none'}; "
            "expected messages, or prompt and completion"
        )


def _weight(message: dict[str, Any], where: str) -> bool:
    """Whether an answer counts, as in OpenAI's files."""
    weight = message.get("weight", 1)
    if weight not in (None, 0, 1):
        raise ValueError(f"{where} has the weight {weight!r}; expected 0 or 1")
    return weight != 0


def _answer(message: dict[str, Any], where: str) -> str:
    extra = sorted(message.keys() - {"role", "content", "name", "weight"})
    if extra := [key for key in extra if message[key]]:
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

"""What a model wrote, taken apart: answer, reasoning, tool calls.

The grammar (model specification, section 8), over text in which special tokens are kept:

    <|channel>thought\\n REASONING <channel|>
    <|tool_call>call:NAME{key:value,...}<tool_call|>
    value = <|"|>TEXT<|"|> | number | true | false | null | [value,...] | {key:value,...}

Parsing is total: a reply may be cut anywhere by a length limit, and a small model writes all sorts
of things. A call that does not parse stays in the text; nothing raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

CHANNEL_OPEN, CHANNEL_CLOSE = "<|channel>", "<channel|>"
CALL_OPEN, CALL_CLOSE = "<|tool_call>", "<tool_call|>"
QUOTE = '<|"|>'

_REASONING = re.compile(
    f"{re.escape(CHANNEL_OPEN)}.*?(?:{re.escape(CHANNEL_CLOSE)}|\\Z)|{re.escape(CHANNEL_CLOSE)}",
    re.DOTALL,
)
_CHANNEL_NAME = "thought\n"
_CALL_NAME = re.compile(r"call:([^\s{}<>]+)")
_KEY = re.compile(r"[^:,{}\[\]<>]+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}
_WORD = re.compile("|".join(rf"{word}\b" for word in _WORDS))
_SPACE = re.compile(r"\s*")
_MAX_DEPTH = 64  # deeper nesting is a model that loops; Python's own stack ends near 1,000


class ToolCall(NamedTuple):
    """One call; `arguments` holds JSON values."""

    name: str
    arguments: dict[str, Any]


class Reply(NamedTuple):
    """A reply taken apart; `reasoning` is empty where there was none."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]


def parse_reply(text: str, *, specials: Iterable[str] = ()) -> Reply:
    """Take apart generated text that still holds its special tokens.

    Reasoning without an end (cut by length) reaches to the end. The spellings in `specials` are
    removed from the text, together with this grammar's own. Whitespace in the answer is kept.
    """
    marks = {CHANNEL_OPEN, CHANNEL_CLOSE, CALL_OPEN, CALL_CLOSE, QUOTE, *specials}
    any_mark = re.compile("|".join(sorted(map(re.escape, marks), key=len, reverse=True)))
    answer: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    position = 0
    while mark := any_mark.search(text, position):
        answer.append(text[position : mark.start()])
        position = mark.end()
        if mark[0] == CHANNEL_OPEN:
            end = text.find(CHANNEL_CLOSE, position)
            end = len(text) if end < 0 else end
            reasoning.append(_without_channel_name(any_mark.sub("", text[position:end])))
            position = end
        elif mark[0] == CALL_OPEN and (parsed := _parse_call(text, position)):
            calls.append(parsed.call)
            position = parsed.end
    answer.append(text[position:])
    return Reply("".join(answer), "\n".join(filter(None, reasoning)), tuple(calls))


def without_reasoning(text: str) -> str:
    """`text` without its reasoning spans, as chat templates render earlier replies."""
    return _REASONING.sub("", text)


def _without_channel_name(thought: str) -> str:
    if _CHANNEL_NAME.startswith(thought):  # cut inside the channel's name
        return ""
    return thought.removeprefix(_CHANNEL_NAME).strip()


class _MalformedError(Exception):
    """Not a call; caught in `_parse_call`."""


class _ParsedCall(NamedTuple):
    call: ToolCall
    end: int


def _parse_call(text: str, start: int) -> _ParsedCall | None:
    """The call whose `call:` stands at `start`, or None. A missing end mark is forgiven at the end
    of the text only: the closing brace shows that nothing is missing."""
    cursor = _Cursor(text, start)
    try:
        name = cursor.match(_CALL_NAME)[1]
        arguments = cursor.mapping(depth=0)
        if not cursor.at_end():
            cursor.expect(CALL_CLOSE)
    except _MalformedError:
        return None
    return _ParsedCall(ToolCall(name, arguments), cursor.position)


class _Cursor:
    """Recursive descent over the call grammar; one method a rule."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position

    def value(self, *, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise _MalformedError
        if self.sees(QUOTE):
            return self.string()
        if self.sees("{"):
            return self.mapping(depth=depth)
        if self.sees("["):
            return self.sequence(depth=depth)
        if self.sees_match(_WORD):
            return _WORDS[self.match(_WORD)[0]]
        return self.number()

    def string(self) -> str:
        self.expect(QUOTE)
        end = self.text.find(QUOTE, self.position)
        if end < 0:
            raise _MalformedError
        content = self.text[self.position : end]
        self.position = end + len(QUOTE)
        return content

    def number(self) -> int | float:
        match = self.match(_NUMBER)
        try:
            number = float(match[0]) if match[1] or match[2] else int(match[0])
        except ValueError:  # Python refuses integers of thousands of digits
            raise _MalformedError from None
        if isinstance(number, float) and not math.isfinite(number):
            raise _MalformedError
        return number

    def sequence(self, *, depth: int) -> list[Any]:
        self.expect("[")
        items: list[Any] = []
        while not self.sees("]"):
            if items:
                self.expect(",")
            items.append(self.value(depth=depth + 1))
        self.expect("]")
        return items

    def mapping(self, *, depth: int) -> dict[str, Any]:
        self.expect("{")
        entries: dict[str, Any] = {}
        first = True
        while not self.sees("}"):
            if not first:
                self.expect(",")
            first = False
            key = self.string() if self.sees(QUOTE) else self.match(_KEY)[0].rstrip()
            self.expect(":")
            entries[key] = self.value(depth=depth + 1)
        self.expect("}")
        return entries

    def skip_space(self) -> None:
        space = _SPACE.match(self.text, self.position)
        assert space is not None
        self.position = space.end()

    def at_end(self) -> bool:
        self.skip_space()
        return self.position == len(self.text)

    def sees(self, literal: str) -> bool:
        self.skip_space()
        return self.text.startswith(literal, self.position)

    def expect(self, literal: str) -> None:
        if not self.sees(literal):
            raise _MalformedError
        self.position += len(literal)

    def sees_match(self, pattern: re.Pattern[str]) -> bool:
        self.skip_space()
        return pattern.match(self.text, self.position) is not None

    def match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        self.skip_space()
        found = pattern.match(self.text, self.position)
        if found is None:
            raise _MalformedError
        self.position = found.end()
        return found

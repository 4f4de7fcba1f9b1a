r"""The notation of skeletons: a line of text that expands to many sentences.

    plain text          itself; \n is a line break, \x is the character x
    [text]              an optional group, kept with the expansion's own probability
    (one|two|three)     one of them; without a | the parentheses are plain text
    {rule}              a named sub-rule, shared by all forms (forms/rules.txt)
    <slot>              a value; <slot:variant> asks for a shape of it

An expansion is a list of spans, the slots' labelled and the rest not, so that the answer can be
read off the finished text instead of being searched in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol


class Span(NamedTuple):
    """A piece of a sentence; `label` names the field that it is the value of."""

    text: str
    label: str | None = None


class Filler(Protocol):
    """What the expander asks for the value of a slot."""

    def __call__(self, slot: str, variant: str) -> list[Span]: ...


@dataclass(frozen=True, kw_only=True)
class Expander:
    """The state of one expansion: its random source, its slots' values and how much it keeps."""

    rng: Random
    rules: Mapping[str, Node]
    fill: Filler
    keep: float


class Node(Protocol):
    """A parsed piece of a skeleton."""

    def expand(self, by: Expander, into: list[Span]) -> None:
        """Append this piece's spans."""
        ...


@dataclass(frozen=True)
class Text:
    text: str

    def expand(self, by: Expander, into: list[Span]) -> None:
        into.append(Span(self.text))


@dataclass(frozen=True)
class Slot:
    name: str
    variant: str

    def expand(self, by: Expander, into: list[Span]) -> None:
        into.extend(by.fill(self.name, self.variant))


@dataclass(frozen=True)
class Rule:
    name: str

    def expand(self, by: Expander, into: list[Span]) -> None:
        by.rules[self.name].expand(by, into)


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]

    def expand(self, by: Expander, into: list[Span]) -> None:
        for part in self.parts:
            part.expand(by, into)


@dataclass(frozen=True)
class Choice:
    options: tuple[Node, ...]

    def expand(self, by: Expander, into: list[Span]) -> None:
        # int(random() * n) instead of choice(): this is the generator's inner loop.
        self.options[int(by.rng.random() * len(self.options))].expand(by, into)


@dataclass(frozen=True)
class Maybe:
    body: Node

    def expand(self, by: Expander, into: list[Span]) -> None:
        if by.rng.random() < by.keep:
            self.body.expand(by, into)


def parse(skeleton: str) -> Node:
    """The tree of a skeleton. ValueError: a bracket without its partner."""
    node, end = _alternatives(skeleton, 0)
    if end != len(skeleton):
        raise ValueError(f"stray {skeleton[end]!r} at {end} in skeleton {skeleton!r}")
    return node


def slots(node: Node) -> list[str]:
    """The slots of a tree in reading order, without those behind named rules."""
    if isinstance(node, Slot):
        return [node.name]
    if isinstance(node, Maybe):
        return slots(node.body)
    children = getattr(node, "parts", ()) or getattr(node, "options", ())
    return [name for child in children for name in slots(child)]


def rule_names(node: Node) -> set[str]:
    """The named rules that a tree uses."""
    if isinstance(node, Rule):
        return {node.name}
    if isinstance(node, Maybe):
        return rule_names(node.body)
    children = getattr(node, "parts", ()) or getattr(node, "options", ())
    return {name for child in children for name in rule_names(child)}


_CLOSES = {"[": "]", "(": ")", "{": "}", "<": ">"}


def _alternatives(text: str, at: int) -> tuple[Node, int]:
    """Sequences with | between them, up to a closing bracket or the end."""
    options = []
    while True:
        node, at = _sequence(text, at)
        options.append(node)
        if at >= len(text) or text[at] != "|":
            break
        at += 1
    return (options[0] if len(options) == 1 else Choice(tuple(options))), at


def _sequence(text: str, at: int) -> tuple[Node, int]:
    parts: list[Node] = []
    literal: list[str] = []

    def flush() -> None:
        if literal:
            parts.append(Text("".join(literal)))
            literal.clear()

    while at < len(text) and text[at] not in "|)]}>":
        char = text[at]
        if char == "\\":
            literal.append("\n" if text[at + 1] == "n" else text[at + 1])
            at += 2
        elif char in _CLOSES:
            flush()
            node, at = _bracket(text, at)
            parts.append(node)
        else:
            literal.append(char)
            at += 1
    flush()
    return (parts[0] if len(parts) == 1 else Sequence(tuple(parts))), at


def _bracket(text: str, at: int) -> tuple[Node, int]:
    opening, closing = text[at], _CLOSES[text[at]]
    node: Node
    if opening in "{<":
        end = text.find(closing, at)
        if end < 0:
            raise ValueError(f"no {closing!r} for {opening!r} at {at} in skeleton {text!r}")
        name, _, variant = text[at + 1 : end].partition(":")
        node = Rule(name) if opening == "{" else Slot(name, variant)
        return node, end + 1
    body, end = _alternatives(text, at + 1)
    if end >= len(text) or text[end] != closing:
        raise ValueError(f"no {closing!r} for {opening!r} at {at} in skeleton {text!r}")
    if opening == "[":
        return Maybe(body), end + 1
    if not isinstance(body, Choice):
        body = Sequence((Text("("), body, Text(")")))
    return body, end + 1

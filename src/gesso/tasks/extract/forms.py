"""The forms: skeletons read from the text files beside this one, and which of them are held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from gesso.tasks.extract.datafiles import lines
from gesso.tasks.extract.notation import Node, parse
from gesso.tasks.extract.schema import KEYS
from gesso.tasks.extract.stable import digest, held_out

# The core stays as it is; splits measure the core and the wide part.
Part = Literal["core", "wide", "more"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, kw_only=True)
class Form:
    """A skeleton with a name that stays the same while its text does."""

    kind: str
    text: str
    tree: Node

    @property
    def id(self) -> str:
        return f"{self.kind}-{digest(self.text) % 16**6:06x}"

    @property
    def held(self) -> bool:
        return held_out(self.text)


@dataclass(frozen=True, kw_only=True)
class Distractor:
    """A sentence that says nothing for the answer.

    `kinds` are those in whose sentences it cannot be taken for a field; `before` and `after` say
    where it may stand.
    """

    kinds: frozenset[str]
    before: bool
    after: bool
    tree: Node


@cache
def forms(kind: str, part: Part = "core") -> tuple[Form, ...]:
    """All forms of a kind in one part of the grammar, in the file's order."""
    name = kind if part == "core" else f"{kind}_{part}"
    return tuple(Form(kind=kind, text=line, tree=parse(line)) for line in lines("forms", name))


@cache
def rules() -> Mapping[str, Node]:
    """The named sub-rules: each line is `name = alternatives`."""
    pairs = (line.split(" = ", 1) for line in lines("forms", "rules"))
    return {name.strip(): parse(body) for name, body in pairs}


@cache
def distractors(kind: str) -> tuple[Distractor, ...]:
    """Those fit for a kind. A line is `where kinds: skeleton`: b(efore) and a(fter), oaci or *."""
    initials = {name[0]: name for name in KEYS}
    found = []
    for line in lines("forms", "distractors"):
        head, body = line.split(": ", 1)
        where, letters = head.split()
        kinds = frozenset(KEYS if letters == "*" else (initials[letter] for letter in letters))
        if kind in kinds:
            before, after = ("b" in where), ("a" in where)
            found.append(Distractor(kinds=kinds, before=before, after=after, tree=parse(body)))
    return tuple(found)

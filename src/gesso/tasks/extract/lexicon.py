"""Pools of names, and which of them a split may use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from gesso.tasks.extract.stable import held_out

POOLS = ("first", "last", "cities", "streets", "streets_after", "firms")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The names that one side of the split may use.

    `forbidden` holds every held-out name for the training side (empty for the other), so that an
    invented word never happens to be one.
    """

    first: tuple[str, ...]
    last: tuple[str, ...]
    cities: tuple[str, ...]
    streets: tuple[str, ...]
    streets_after: tuple[str, ...]
    firms: tuple[str, ...]
    forbidden: frozenset[str]


@cache
def _entries() -> dict[str, list[str]]:
    path = files("gesso.tasks.extract") / "lexicon.json"
    pools: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return pools


@cache
def lexicon(*, held: bool) -> Lexicon:
    """The held-out names, or the others.

    Names share words (the firm "Silva & Sons", the surname "Silva"), so the training side also
    drops every entry that has a held-out name among its words.
    """
    pools = _entries()
    out = frozenset(e.lower() for name in POOLS for e in pools[name] if held_out(e))

    def kept(entry: str) -> bool:
        if held:
            return held_out(entry)
        words = set(re.split(r"[ ,.&-]+", entry.lower()))
        return entry.lower() not in out and not words & out

    sides = {name: tuple(e for e in pools[name] if kept(e)) for name in POOLS}
    return Lexicon(**sides, forbidden=frozenset() if held else out)

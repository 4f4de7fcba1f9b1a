"""Roughening: what a hurried writer does to a sentence, done to its spans.

Fields change case with their sentence and are then written so in the answer; nothing else of them
changes, so the answer stays verbatim.
"""

from __future__ import annotations

import re
from random import Random

from gesso.tasks.extract.notation import Span


def _lower(spans: list[Span], rng: Random) -> list[Span]:
    return [Span(s.text.lower(), s.label) for s in spans]


def _no_stop(spans: list[Span], rng: Random) -> list[Span]:
    last = spans[-1]
    return [*spans[:-1], last if last.label else Span(last.text.rstrip("."))]


def _no_commas(spans: list[Span], rng: Random) -> list[Span]:
    # A comma that alone parts two fields is kept: without it they would read as one.
    return [s if s.label or s.text.strip() == "," else Span(s.text.replace(",", "")) for s in spans]


def _ampersand(spans: list[Span], rng: Random) -> list[Span]:
    return [s if s.label else Span(re.sub(r"\band\b", "&", s.text)) for s in spans]


def _loud_name(spans: list[Span], rng: Random) -> list[Span]:
    names = {"customer", "person", "with", "name", "company", "reporter"}
    return [Span(s.text.upper(), s.label) if s.label in names else s for s in spans]


def _typo(spans: list[Span], rng: Random) -> list[Span]:
    places = [i for i, s in enumerate(spans) if not s.label and re.search(r"[a-z]{5}", s.text)]
    if not places:
        return spans
    at = rng.choice(places)
    text = spans[at].text
    words = list(re.finditer(r"[a-z]{5,}", text))
    word = rng.choice(words)
    i = rng.randrange(word.start() + 1, word.end() - 2)
    swapped = text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    dropped = text[:i] + text[i + 1 :]
    return [*spans[:at], Span(rng.choice((swapped, dropped))), *spans[at + 1 :]]


KINDS = (_lower, _lower, _lower, _no_stop, _no_stop, _no_commas, _ampersand, _loud_name, _typo)


def roughen(spans: list[Span], rng: Random) -> list[Span]:
    """One or two roughnesses."""
    for _ in range(rng.choice((1, 1, 2))):
        spans = rng.choice(KINDS)(spans, rng)
    return spans

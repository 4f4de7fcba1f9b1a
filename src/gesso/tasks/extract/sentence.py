"""A finished sentence of spans: its spacing and capitals, and the answer read off its labels."""

from __future__ import annotations

from typing import Any

from gesso.tasks.extract.notation import Span
from gesso.tasks.extract.schema import KEYS

# Names and addresses of the net keep their own case.
CAPITALISED = ("date", "time", "place", "deliver_to", "what", "item", "other")
ENDS = (".", "!", "?", "\n")


def tidy(spans: list[Span]) -> list[Span]:
    """One space between words, one full stop at an end, "an" before a vowel."""
    out: list[Span] = []
    last = " "
    for text, label in spans:
        if last[-1] in " \n":
            # An optional group left out must not leave two spaces.
            text = text.lstrip(" ")
        elif label is None and last[-1] == "." and text.startswith("."):
            # "at 3 p.m." ends its sentence itself.
            text = text[1:]
        if not text:
            continue
        after_a = last.endswith((" a ", "\na ")) and out[-1].label is None
        if after_a and label is None and text[0] in "aeiou":
            # The noun was chosen after its article: "a" and "appointment".
            out[-1] = Span(last[:-1] + "n ")
        out.append(Span(text, label))
        last = text
    if out[-1].label is None:
        out[-1] = Span(out[-1].text.rstrip(" "))
    return out


def capitalise(spans: list[Span]) -> list[Span]:
    """Upper-case the first letter of each sentence, a field's too: then that is its spelling."""
    out: list[Span] = []
    start = True
    for text, label in spans:
        free = label is None or label.partition(":")[0] in CAPITALISED
        if start and free and text[:1].islower() and "@" not in text:
            text = text[0].upper() + text[1:]
        stripped = text.rstrip(" ")
        start = label is None and (stripped.endswith(ENDS) or (start and not stripped))
        out.append(Span(text, label))
    return out


def answer(kind: str, spans: list[Span]) -> dict[str, Any]:
    """The object that the labelled spans say."""
    got: dict[str, Any] = {"kind": kind, **dict.fromkeys(KEYS[kind])}
    items = []
    for text, label in spans:
        if label in KEYS[kind]:
            assert got[label] is None, f"two values for {label!r}"
            got[label] = text
        elif label and label.startswith("item:"):
            items.append({"item": text, "quantity": int(label[5:])})
    if kind == "order":
        assert items, "an order of nothing"
        got["items"] = items
    return got

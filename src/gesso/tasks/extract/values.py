"""The values of a form's slots, drawn when the expansion reaches them."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from gesso.tasks.extract.lexicon import Lexicon
from gesso.tasks.extract.names import Names
from gesso.tasks.extract.notation import Span
from gesso.tasks.extract.places import Places
from gesso.tasks.extract.reach import Reach
from gesso.tasks.extract.things import Things
from gesso.tasks.extract.when import Calendar, When

# The label of values that belong to a distractor: they must not reach the answer.
OTHER = "other"
# What may stand before a place instead of its own preposition, in wide examples.
NEAR = (
    "outside", "near", "next to", "in front of", "behind", "opposite", "close to", "by", "beside",
    "inside", "just outside", "across from", "right by", "around",
)  # fmt: skip
# Dates that no "by" or "for" can come before.
ADVERBS = ("in ", "over ", "late", "earl")


@dataclass(kw_only=True)
class Values:
    """One example's values: consistent among themselves (an address fits its name), so stateful."""

    kind: str
    rng: Random
    pools: Lexicon
    pseudo: float
    wide: bool = False
    name: str | None = field(default=None, init=False)
    firm: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        rng, wide = self.rng, self.wide
        self.names = Names(rng=rng, pools=self.pools, pseudo=self.pseudo, wide=wide)
        self.places = Places(rng=rng, names=self.names, wide=wide)
        self.reach = Reach(rng=rng, names=self.names)
        self.calendar = Calendar(rng=rng, wide=wide)
        self.things = Things(rng=rng, pseudo=self.pseudo, wide=wide)

    def __call__(self, slot: str, variant: str) -> list[Span]:
        """The spans of a slot: its value labelled, an article or preposition before it not."""
        if slot == OTHER:
            # "other:date.on" is the date slot in its shape "on", under the distractor's label.
            slot, _, variant = variant.partition(".")
            return [Span(s.text, s.label and OTHER) for s in self._draw(slot, variant)]
        return self._draw(slot, variant)

    def _draw(self, slot: str, variant: str) -> list[Span]:
        match slot:
            case "customer" | "with" | "reporter" | "person":
                return [Span(self._party(slot, variant), slot)]
            case "name":
                return [Span(self._own_name(variant), "name")]
            case "company":
                self.firm = self.firm or self.names.firm()
                return [Span(self.firm, "company")]
            case "firm":
                return [Span(self.names.firm(), "firm")]
            case "phone":
                return [Span(self.reach.phone(), "phone")]
            case "email":
                return [Span(self._email(), "email")]
            case "items":
                return self._items(variant)
            case "deliver_to":
                return [Span(self.places.destination(), "deliver_to")]
            case "date":
                return self._date(variant)
            case "time":
                time = self.calendar.time(bare=bool(variant))
                return (
                    [Span("at "), Span(time, "time")] if variant == "at" else [Span(time, "time")]
                )
            case "place":
                return self._place(variant)
            case "what":
                # "s" asks for one that a singular verb can follow.
                article, phrase = self.things.incident(single=variant == "s")
                lead = [Span(article + " ")] if article and variant else []
                return [*lead, Span(phrase, "what")]
            case "city":
                return [Span(self.places.city(), "city")]
            case "number":
                return [Span(str(self.rng.randint(2, 90)), "number")]
        raise ValueError(f"unknown slot {slot!r} in a form")

    def _party(self, slot: str, variant: str) -> str:
        shapes = {
            "p": self.names.person,
            "f": self.names.firm,
            "first": self.names.first,
            "full": self.names.full,
            "doc": self.names.doctor,
            "": self.names.party if slot in ("customer", "with") else self.names.person,
        }
        return shapes[variant]()

    def _own_name(self, variant: str) -> str:
        if variant:
            self.name = self._party("name", variant)
        self.name = self.name or self.names.person()
        return self.name

    def _email(self) -> str:
        if self.kind == "contact":
            self._own_name("")
        return self.reach.email(self.name, self.firm)

    def _items(self, variant: str) -> list[Span]:
        rng = self.rng
        count = rng.choice((1, 1, 1, 1, 1, 2, 2, 2, 3))
        last = (
            ", " if variant == "x" else rng.choice((" and ", " and ", ", and ", " plus ", " and "))
        )
        before, between, after = {
            "x": rng.choice((("", "x ", ""), ("", " x ", ""), ("", "", "x")))
        }.get(variant, ("", " ", ""))
        spans: list[Span] = []
        for i in range(count):
            if i:
                joint = last if i == count - 1 else ", "
                # The comma before "and" is for lists of three.
                spans.append(Span(" and " if joint == ", and " and count == 2 else joint))
            amount = self.things.amount(spelled=variant != "x")
            item = Span(amount.item, f"item:{amount.quantity}")
            if after:
                spans += [item, Span(f" x{amount.quantity}")]
            elif amount.item[0].isdigit() and amount.word.isdigit():
                spans += [Span(f"{amount.word} x "), item]
            else:
                spans += [Span(before + amount.word + between), item]
        return spans

    def _date(self, variant: str) -> list[Span]:
        past = (self.kind == "incident" or variant == "past") and variant != "future"
        date = self.calendar.date(past=past)
        while variant in ("by", "for", "plain") and date.text.startswith(ADVERBS):
            date = self.calendar.date(past=past)
        if variant in ("on", "past", "future"):
            # "see you Friday": the preposition is dropped at times.
            drop = date.text[0].isupper() and self.rng.random() < 0.12
            return self._led("" if drop else date.preposition, date.text, "date")
        return self._led(variant if variant in ("by", "for") else "", date.text, "date")

    def _place(self, variant: str) -> list[Span]:
        scene = self.kind == "incident"
        place: When | tuple[str, str] = self.places.scene() if scene else self.places.place()
        lead = place[1] if variant == "at" else ""
        if lead and self.wide and self.rng.random() < 0.25:
            lead = self.rng.choice(NEAR)
        return self._led(lead, place[0], "place")

    def _led(self, lead: str, text: str, label: str) -> list[Span]:
        return [Span(lead + " "), Span(text, label)] if lead else [Span(text, label)]

"""Things: what is ordered and how many, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from gesso.tasks.extract.datafiles import lines, table
from gesso.tasks.extract.names import invented

_WORDS = table("quantities")
NUMBERS, TWOS = _WORDS["numbers"], _WORDS["twos"]
TEENS, TENS = _WORDS["teens"], _WORDS["tens"]
LARGER = {"fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "a hundred": 100}
DOZENS = {"a dozen": 12, "half a dozen": 6, "two dozen": 24, "three dozen": 36}
# How the incidents of more than one thing begin.
PLURAL = _WORDS["plural"]
# Where an indefinite article is written by sound and not by letter.
LIKE_CONSONANT, LIKE_VOWEL = _WORDS["like_consonant"], _WORDS["like_vowel"]


class Group(NamedTuple):
    """Nouns that go together with the same adjectives and units."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    units: tuple[str, ...]


class Amount(NamedTuple):
    """How many of what, in words: `word` is what the sentence says, "" where it says nothing."""

    word: str
    quantity: int
    item: str


def _both(name: str, *, wide: bool) -> list[str]:
    """The lines of a word file, and of its wider one."""
    return lines("words", name) + (lines("words", f"{name}_wide") if wide else [])


@cache
def groups(*, wide: bool = False) -> tuple[Group, ...]:
    """The vocabulary of items."""
    rows = [[tuple(filter(None, map(str.strip, cell.split(",")))) for cell in line.split("|")]
            for line in _both("items", wide=wide)]  # fmt: skip
    return tuple(Group(*row) for row in rows)


@cache
def phrases(*, wide: bool = False) -> tuple[str, ...]:
    """Incidents: every fault with every thing it can befall, and the whole phrases, which are
    drawn as often."""
    made = []
    for line in _both("incidents", wide=wide):
        faults, things = (cell.split(",") for cell in line.split("|"))
        made += [
            f"{article(fault.strip())} {fault.strip()} {thing.strip()}"
            for fault in faults
            for thing in things
        ]
    whole = [phrase for line in _both("incident_phrases", wide=wide) for phrase in line.split("|")]
    return tuple(made + whole * (10 if wide else 4))


def article(phrase: str) -> str:
    """ "a" or "an", by the sound that the phrase begins with."""
    low = phrase.lower()
    vowel = low.startswith(LIKE_VOWEL) or (
        low[0] in "aeioué" and not low.startswith(LIKE_CONSONANT)
    )
    return "an" if vowel else "a"


def in_words(n: int) -> str:
    """A number from 1 to 99, or whole hundreds below a thousand, in words."""
    if n >= 100:
        return f"{NUMBERS[n // 100 - 1]} hundred"
    if n <= len(NUMBERS):
        return NUMBERS[n - 1]
    if n < 20:
        return TEENS[n - 13]
    tens, ones = TENS[n // 10 - 2], n % 10
    return f"{tens}-{NUMBERS[ones - 1]}" if ones else tens


def plural(noun: str) -> str:
    """The plural of a noun written as the word files write it."""
    if "/" in noun:
        return noun.split("/")[1]
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")


@dataclass(frozen=True, kw_only=True)
class Things:
    """Draws items and incidents; wide: of a larger vocabulary, in more numerals."""

    rng: Random
    pseudo: float
    wide: bool = False

    def _name(self, *, many: bool) -> tuple[str, bool]:
        """An item, and whether it is one thing of a unit ("boxes of nails")."""
        rng = self.rng
        known = groups(wide=self.wide)
        group = known[int(rng.random() * len(known))]
        noun = rng.choice(group.nouns)
        if self.pseudo and rng.random() < self.pseudo:
            noun = invented(rng)
        mass = noun.startswith("=")
        unit = rng.choice(group.units) if group.units and (mass or rng.random() < 0.12) else ""
        if unit:
            name = noun[1:] if mass else plural(noun)
        else:
            name = plural(noun) if many else noun.split("/")[0]
        roll = rng.random()
        if roll < 0.55:
            name = f"{rng.choice(group.adjectives)} {name}"
        elif roll < 0.63:
            name = " ".join((*rng.sample(group.adjectives, 2), name))
        if unit:
            measure = unit if unit == "kg" or not many else plural(unit)
            name = f"{measure} of {name}"
        return name, bool(unit)

    def amount(self, *, spelled: bool = True) -> Amount:
        """A quantity and its item; without `spelled` the quantity is digits only."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.24:
            name, _ = self._name(many=False)
            wordy = spelled and rng.random() < 0.8 and not name[0].isdigit()
            word = (
                rng.choice((article(name), article(name), article(name), "one")) if wordy else "1"
            )
            return Amount(word, 1, name)
        name, measured = self._name(many=True)
        if self.wide and spelled and rng.random() < 0.2:
            n = rng.choice((rng.randint(13, 99), rng.randint(2, 9) * 100))
            return Amount(in_words(n), n, name)
        if self.wide and rng.random() < 0.05:
            n = rng.randint(1000, 9999)
            return Amount(f"{n:,}", n, name)
        if not spelled or roll < 0.62:
            size = rng.choice((9, 9, 30, 150, 1200 if rng.random() < 0.1 else 60))
            n = rng.randint(2, size)
            return Amount(str(n), n, name)
        if roll < 0.88 or measured:
            n = rng.randint(2, 12)
            return Amount(NUMBERS[n - 1], n, name)
        if roll < 0.92:
            return Amount(rng.choice(TWOS), 2, name)
        word, n = rng.choice(tuple((LARGER if roll < 0.955 else DOZENS).items()))
        return Amount(word, n, name)

    def incident(self, *, single: bool) -> tuple[str, str]:
        """An article ("" where it takes none) and what happened; `single`: not many of it."""
        known = phrases(wide=self.wide)
        phrase = self.rng.choice(known)
        while single and (
            phrase.startswith(PLURAL) or (self.wide and phrase[:2] not in ("a ", "an"))
        ):
            phrase = self.rng.choice(known)
        if self.pseudo and self.rng.random() < self.pseudo:
            fault = self.rng.choice(("broken", "stolen", "leaking", "jammed"))
            phrase = f"a {fault} {invented(self.rng)}"
        head, _, rest = phrase.partition(" ")
        return (head, rest) if head in ("a", "an") else ("", phrase)

"""People, firms, and the words of neither: names in the many shapes that people write them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from random import Random

from gesso.tasks.extract.datafiles import table
from gesso.tasks.extract.lexicon import Lexicon

_WORDS = table("names")
TITLES, DOCTORS, PARTICLES = _WORDS["titles"], _WORDS["doctors"], _WORDS["particles"]
CELTIC, TRADES, SUFFIXES = _WORDS["celtic"], _WORDS["trades"], _WORDS["suffixes"]
# Syllables; an entry may be empty or stand there twice, to be drawn more often.
ONSETS, VOWELS, CODAS = _WORDS["onsets"], _WORDS["vowels"], _WORDS["codas"]
_MORE = table("names_wide")
_PIECES = table("pieces")
LETTERS = _PIECES["letters"]
PIECES = tuple(piece for key, row in _PIECES.items() if key != "letters" for piece in row)


def invented(rng: Random, low: int = 2, high: int = 3) -> str:
    """A lower-case word that no one has seen, of random syllables or of pieces of other words.

    Without the pieces, parts of the vocabulary that only held-out names have would never be copied.
    """
    if rng.random() < 0.5:
        parts = rng.choices(PIECES, k=rng.randint(2, 3))
        if rng.random() < 0.25:
            parts.insert(rng.randint(0, len(parts)), rng.choice(LETTERS))
        return "".join(parts)
    return "".join(
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
        for _ in range(rng.randint(low, high))
    )


@dataclass(frozen=True, kw_only=True)
class Names:
    """Draws names from one side of the lexicon; `pseudo` is the chance that a name is invented.

    wide: rarer titles among them, and firms named by common words.
    """

    rng: Random
    pools: Lexicon
    pseudo: float
    wide: bool = False

    def pick(self, pool: tuple[str, ...], *, syllables: int = 3) -> str:
        if self.pseudo and self.rng.random() < self.pseudo:
            while True:
                word = invented(self.rng, 1 if syllables < 3 else 2, syllables)
                if len(word) > 2 and word not in self.pools.forbidden:
                    return word[0].upper() + word[1:]
        return pool[int(self.rng.random() * len(pool))]

    def first(self) -> str:
        """A given name."""
        return self.pick(self.pools.first, syllables=2)

    def last(self) -> str:
        """A surname, now and then a double-barrelled one or one with a particle."""
        rng, name = self.rng, self.pick(self.pools.last)
        roll = rng.random()
        if roll > 0.14 or " " in name or "-" in name:
            return name
        if roll < 0.05:
            return f"{name}-{self.pick(self.pools.last)}"
        if roll < 0.11:
            return f"{rng.choice(PARTICLES)} {name}"
        return rng.choice(CELTIC) + name

    def full(self) -> str:
        """Given name and surname."""
        if self.wide and self.rng.random() < 0.1:
            joint = self.rng.choice(" -")
            return f"{self.first()}{joint}{self.first()} {self.last()}"
        roll = self.rng.random()
        if roll < 0.05:
            return f"{self.first()} {self.rng.choice('ABCDEFGHJKLMNPRSTW')}. {self.last()}"
        return f"{self.first()} {self.last()}"

    def titled(self) -> str:
        """Title and surname, at times with the given name."""
        name = self.full() if self.rng.random() < 0.2 else self.last()
        if self.wide and self.rng.random() < 0.5:
            name = self.rng.choice((name, self.first()))
            title = self.rng.choice(_MORE["titles"])
            while not self.allowed(title):
                title = self.rng.choice(_MORE["titles"])
            return f"{title} {name}"
        return f"{self.rng.choice(TITLES)} {name}"

    def doctor(self) -> str:
        """A name with a doctor's or professor's title."""
        return f"{self.rng.choice(DOCTORS)} {self.last()}"

    def person(self) -> str:
        """A person in any shape."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.50:
            return self.full()
        if roll < 0.74:
            return self.first()
        if roll < 0.91:
            return self.titled()
        initials = rng.sample("ABCDEFGHJKLMNPRSTW", rng.randint(1, 2))
        if roll < 0.97:
            return ". ".join(initials) + ". " + self.last()
        return f"{self.first()} {initials[0]}."

    def firm(self) -> str:
        """A company, shop, school or practice."""
        rng = self.rng
        if self.wide and rng.random() < 0.6:
            return self.worded()
        roll = rng.random()
        if roll < 0.6:
            name = self.pick(self.pools.firms)
            invented_bare = self.pseudo and rng.random() < self.pseudo
            return f"{name} {rng.choice(SUFFIXES)}" if invented_bare else name
        last = self.pick(self.pools.last)
        if roll < 0.68:
            return (
                f"{last} {rng.choice(('&', 'and', '&'))} {rng.choice(('Sons', 'Daughters', 'Co'))}"
            )
        if roll < 0.76:
            return f"{last} {rng.choice(('&', 'and'))} {self.pick(self.pools.last)}"
        if roll < 0.87:
            return f"{last} {rng.choice(TRADES)}"
        if roll < 0.91:
            return f"{self.first()}'s {rng.choice(TRADES)}"
        return f"{last} {rng.choice(SUFFIXES)}"

    def worded(self) -> str:
        """A firm, shop, school or club with common words for a name; none of a held-out name."""
        rng = self.rng
        while True:
            first, second, trade = (rng.choice(_MORE[k]) for k in ("firsts", "seconds", "trades"))
            own = rng.choice((self.pools.last, self.pools.cities, self.pools.streets))
            shapes = (
                f"{first} {second}", f"{first} {trade}", f"{first} {trade}", f"{second} {trade}",
                f"{first} {second} {trade}", f"The {first} {second}", f"{first}{second.lower()}",
                f"{rng.choice(own)} {trade}", f"{rng.choice(own)} {trade}", f"{first} & {second}",
                *rng.sample(_MORE["bare"], 3),
            )  # fmt: skip
            name: str = rng.choice(shapes)
            if self.allowed(name):
                return name

    def allowed(self, name: str) -> bool:
        """Whether no word of it is a held-out name, where those are to be kept out."""
        return not self.pools.forbidden.intersection(re.split(r"[ ,.&'-]+", name.lower()))

    def party(self) -> str:
        """Whoever orders or is met: mostly people."""
        return self.person() if self.rng.random() < 0.72 else self.firm()


def plain(text: str) -> str:
    """Lower-case ASCII letters and digits of a name, as an address of the net spells it."""
    folded = unicodedata.normalize("NFKD", text.replace("ø", "o").replace("ł", "l"))
    return re.sub(r"[^a-z0-9]", "", folded.encode("ascii", "ignore").decode().lower())

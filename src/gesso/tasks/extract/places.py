"""Places: cities, addresses, rooms, venues and spots, with the preposition that each one takes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gesso.tasks.extract.datafiles import table
from gesso.tasks.extract.names import Names
from gesso.tasks.extract.when import When as Phrase

_WORDS = table("places")
ROOMS, SPOTS, ROADS, VENUES = (_WORDS[key] for key in ("rooms", "spots", "roads", "venues"))
_MORE = table("places_wide")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Draws places from one side of the lexicon.

    wide: more kinds of them, and places in places.
    """

    rng: Random
    names: Names
    wide: bool = False

    def _numbered(self, pool: tuple[str, ...]) -> str:
        number = self.rng.choice((str(self.rng.randint(1, 20)), str(self.rng.randint(100, 420))))
        return self.rng.choice(pool).replace("#", number)

    def city(self) -> str:
        """A town."""
        return self.names.pick(self.names.pools.cities)

    def street(self) -> str:
        """An English-style street name."""
        return self.names.pick(self.names.pools.streets)

    def address(self) -> str:
        """House number and street, at times with flat, city or postcode."""
        rng, pools = self.rng, self.names.pools
        number = str(rng.randint(1, 99) if rng.random() < 0.75 else rng.randint(100, 2400))
        if rng.random() < 0.08:
            number += rng.choice("ABCab")
        if rng.random() < 0.7:
            street = f"{number} {self.street()}"
        else:
            street = f"{self.names.pick(pools.streets_after)} {number}"
        roll = rng.random()
        if roll < 0.07:
            return (
                f"{rng.choice(('Flat', 'Apt', 'Unit', 'Apartment'))} {rng.randint(1, 30)}, {street}"
            )
        if roll < 0.2:
            return f"{street}, {self.city()}"
        if roll < 0.24:
            return f"{street}, {rng.randint(10000, 99999)} {self.city()}"
        return street

    def venue(self) -> str:
        """A café, hotel, school with a name of its own."""
        rng = self.rng
        name = rng.choice((self.names.last, self.city, self.street))()
        kind = rng.choice(VENUES)
        if self.wide and rng.random() < 0.5:
            return rng.choice((self.names.worded(), f"{name} {rng.choice(_MORE['venues'])}"))
        shapes = (f"{name} {kind}", f"the {name} {kind}", f"{kind} {name}", f"{name} {kind}")
        return rng.choice(shapes)

    def _wider(self) -> Phrase:
        rng = self.rng
        kind, whole, part = (rng.choice(_MORE[key]) for key in ("kinds", "wholes", "parts"))
        landmark = self._numbered(_MORE["landmarks"])
        while not self.names.allowed(landmark):
            landmark = self._numbered(_MORE["landmarks"])
        named = rng.choice((landmark, self.venue(), kind))
        roll = rng.random()
        if roll < 0.24:
            room = self._numbered(_MORE["rooms"])
            return Phrase(f"{room} at {named}" if roll < 0.06 else room, "in")
        if roll < 0.32:
            return Phrase(self._numbered(_MORE["on"]), "on")
        if roll < 0.5:
            return Phrase(landmark if roll < 0.38 else self._numbered(_MORE["spots"]), "at")
        shapes = (
            f"{part} of {whole}", f"{part} of {self.address()}", f"{part} of {named}", named,
            f"{kind} on {self.street()}", f"{kind} in {self.city()}", f"{named} in {self.city()}",
            f"{named} on {self.street()}", f"{self.venue()}, {self.address()}",
            f"the {self.city()} {rng.choice(('office', 'branch', 'site', 'depot'))}",
        )  # fmt: skip
        return Phrase(rng.choice(shapes), "at")

    def place(self) -> Phrase:
        """Where someone meets."""
        if self.wide and self.rng.random() < 0.6:
            return self._wider()
        roll = self.rng.random()
        if roll < 0.26:
            return Phrase(self._numbered(ROOMS), "in")
        if roll < 0.42:
            return Phrase(self._numbered(SPOTS), "at")
        if roll < 0.6:
            return Phrase(self.address(), "at")
        if roll < 0.8:
            return Phrase(self.venue(), "at")
        if roll < 0.86:
            return Phrase(self.names.firm(), "at")
        return Phrase(self.city(), "in")

    def scene(self) -> Phrase:
        """Where something happened."""
        if self.wide and self.rng.random() < 0.6:
            return self._wider()
        roll = self.rng.random()
        if roll < 0.14:
            shape = self.rng.choice(ROADS)
            return Phrase(shape.format(self.street(), self.street()), "at")
        if roll < 0.26:
            return Phrase(self.street(), "on")
        return self.place()

    def destination(self) -> str:
        """Where goods go."""
        if self.wide and self.rng.random() < 0.5:
            return self._wider().text
        roll = self.rng.random()
        if roll < 0.6:
            return self.address()
        if roll < 0.78:
            return self.city()
        if roll < 0.9:
            return self._numbered(SPOTS)
        return self._numbered(ROOMS) if roll < 0.95 else self.venue()

"""Phone numbers and e-mail addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from gesso.tasks.extract.datafiles import table
from gesso.tasks.extract.names import TITLES, Names, plain

_WORDS = table("reach")
SHAPES, DOMAINS, ENDINGS = _WORDS["shapes"], _WORDS["domains"], _WORDS["endings"]
ROLES, NICKNAMES = _WORDS["roles"], _WORDS["words"]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Ways to reach someone."""

    rng: Random
    names: Names

    def phone(self) -> str:
        """A number in one of many national and private layouts."""
        shape = self.rng.choice(SHAPES)
        return re.sub("#", lambda _: str(int(self.rng.random() * 10)), shape)

    def email(self, name: str | None, firm: str | None) -> str:
        """An address, usually of the name and the firm that the sentence already has."""
        rng = self.rng
        domain = f"{plain(firm)[:16]}.{rng.choice(ENDINGS)}" if firm and rng.random() < 0.6 else ""
        if len(domain) < 6:
            domain = rng.choice(DOMAINS)
            if rng.random() < 0.35:
                domain = f"{plain(self.names.last()) or 'post'}.{rng.choice(ENDINGS)}"
        return f"{self._local(name)}@{domain}"

    def _local(self, name: str | None) -> str:
        rng = self.rng
        roll = rng.random()
        if roll < 0.15:
            return rng.choice(ROLES)
        if roll < 0.27:
            return rng.choice(NICKNAMES) + rng.choice(("", ".", "_")) + str(rng.randint(1, 99))
        words = [
            plain(w) for w in (name or self.names.full()).split() if w not in TITLES and len(w) > 2
        ]
        first, last = (words or ["post"])[0] or "post", (words or ["post"])[-1] or "post"
        if first == last:
            return first + rng.choice(("", "", str(rng.randint(1, 99))))
        styles = (f"{first}.{last}", first, f"{first[0]}{last}", f"{first}{last}", last,
                  f"{first}_{last}", f"{first[0]}.{last}", f"{first}{rng.randint(1, 99)}",
                  f"{last}.{first}", f"{first}-{last}")  # fmt: skip
        return rng.choice(styles)

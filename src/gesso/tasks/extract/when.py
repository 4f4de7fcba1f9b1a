"""Dates and times as people write them, with the preposition that each one takes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from gesso.tasks.extract.datafiles import table

_WORDS = table("calendar")
DAYS, MONTHS, PARTS, FEASTS = (_WORDS[key] for key in ("days", "months", "parts", "feasts"))
FUTURE, PAST = _WORDS["future"], _WORDS["past"]
HOURS, DAY_PARTS = _WORDS["hours"], _WORDS["day_parts"]
_RARER = table("calendar_wide")


class When(NamedTuple):
    """A phrase and the preposition before it ("" where it takes none)."""

    text: str
    preposition: str


def ordinal(day: int) -> str:
    """14 -> 14th."""
    suffix = "th" if 10 < day % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """Draws dates and times; `past` chooses between what was and what is to come.

    wide: rarer spellings among them.
    """

    rng: Random
    wide: bool = False

    def date(self, *, past: bool) -> When:
        """A day in words or digits."""
        rng = self.rng
        if self.wide and rng.random() < 0.35:
            return self._rarer_date(past=past)
        roll = rng.random()
        if roll < 0.24:
            return When(rng.choice(PAST if past else FUTURE), "")
        if roll < 0.50:
            return self._weekday(past=past)
        if roll < 0.80:
            return When(self._named_day(), "on")
        if roll < 0.97:
            return When(self._digits(), "on")
        return When(rng.choice(FEASTS), "on")

    def _rarer_date(self, *, past: bool) -> When:
        rng, words = self.rng, _RARER
        if rng.random() < 0.35:
            return When(rng.choice(words["past" if past else "future"]), "")
        day, month, n = rng.choice(DAYS), rng.choice(MONTHS), rng.randint(1, 28)
        short, part, nth = rng.choice(words["days"]), rng.choice(PARTS), ordinal(n)
        lead = "last" if past else rng.choice(("next", "this"))
        edge = rng.choice(words["edges"])
        shapes = (
            (short, "on"), (f"{short} {part}", "on"), (f"{short} {nth}", "on"),
            (f"{short} {n} {month[:3]}", "on"), (f"{lead} {day} {part}", ""),
            (f"{lead} {short}", ""), (f"the {part} of {month} {n}", "on"),
            (f"the {part} of the {nth}", "on"), (f"the {part} of {n} {month}", "on"),
            (f"{month[:3]}. {n}", "on"), (f"{month} the {nth}", "on"), (f"{n}. {month}", "on"),
            (f"the {rng.choice(words['ordinals'])} of {month}", "on"),
            (f"the {rng.choice(words['ordinals'])}", "on"), (nth, "on"),
            (f"{day} {n}/{rng.randint(1, 12)}", "on"), (f"{day} the {nth} of {month}", "on"),
            (rng.choice(words["feasts"]), "on"), (rng.choice(words["feasts"]), "on"),
            (f"{edge} of {month}", "at"), (f"mid-{month}", "in"), (f"early {month}", "in"),
            (f"late {month}", "in"),
        )  # fmt: skip
        return When(*rng.choice(shapes))

    def _weekday(self, *, past: bool) -> When:
        rng, day = self.rng, self.rng.choice(DAYS)
        roll = rng.random()
        if roll < 0.40:
            return When(day, "on")
        if roll < 0.62:
            return When(f"{'last' if past else rng.choice(('next', 'this', 'next'))} {day}", "")
        if roll < 0.76:
            return When(f"{day} {rng.choice(PARTS)}", "on")
        if roll < 0.84:
            return When(day[:3], "on")
        if past or roll < 0.90:
            return When(f"{day} night" if past else f"{day} evening", "on")
        if roll < 0.96:
            return When(f"tomorrow {rng.choice(PARTS)}", "")
        return When(f"{day} next week", "on")

    def _named_day(self) -> str:
        rng = self.rng
        day, month = rng.randint(1, 28), rng.choice(MONTHS)
        short = month[:3] if rng.random() < 0.3 else month
        year = f" {rng.randint(2023, 2028)}" if rng.random() < 0.12 else ""
        weekday = rng.choice(DAYS)
        shapes = (
            f"{short} {day}", f"{short} {ordinal(day)}", f"{month} {ordinal(day)}",
            f"{day} {short}", f"{day} {short}{year}", f"{ordinal(day)} {short}{year}",
            f"the {ordinal(day)}",
            f"the {ordinal(day)} of {month}",
            f"{ordinal(day)} of {month}", f"the {ordinal(day)}",
            f"{weekday} {day} {short}", f"{weekday}, {short} {day}",
            f"{weekday} the {ordinal(day)}",
            f"{weekday}, {ordinal(day)} {month}", f"{month} {day}{',' if year else ''}{year}",
        )  # fmt: skip
        return rng.choice(shapes)

    def _digits(self) -> str:
        rng = self.rng
        d, m, y = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2023, 2028)
        shapes = (
            f"{y}-{m:02}-{d:02}", f"{y}-{m:02}-{d:02}", f"{d:02}/{m:02}/{y}", f"{d:02}.{m:02}.{y}",
            f"{m}/{d}", f"{d}/{m}", f"{d:02}/{m:02}", f"{m:02}/{d:02}/{y % 100}", f"{d}.{m}.",
            f"{d:02}-{m:02}-{y}", f"{y}/{m:02}/{d:02}", f"{d}.{m}.{y}",
        )  # fmt: skip
        return rng.choice(shapes)

    def time(self, *, bare: bool) -> str:
        """A time of day; `bare` allows a mere number, which needs an "at" before it to be read."""
        rng = self.rng
        if self.wide and rng.random() < 0.35:
            return self._rarer_time()
        h, m = rng.randint(1, 12), rng.choice((0, 5, 10, 15, 15, 20, 30, 30, 40, 45, 50))
        word, half = rng.choice(HOURS), rng.choice(("am", "pm"))
        roll = rng.random()
        if bare and roll < 0.10:
            return rng.choice((str(h), word, f"{h}:{m:02}"))
        if roll < 0.32:
            return rng.choice((f"{h}{half}", f"{h} {half}", f"{h}{half}", f"{h} {half[0]}.m."))
        if roll < 0.48:
            return rng.choice((f"{h}:{m:02}{half}", f"{h}:{m:02} {half}", f"{h}.{m:02}{half}"))
        if roll < 0.74:
            hour = rng.randint(0, 23)
            return rng.choice((f"{hour:02}:{m:02}", f"{hour}:{m:02}",
                               f"{hour:02}:{rng.randint(0, 59):02}",
                               f"{hour:02}h{m:02}", f"{hour:02}.{m:02}"))  # fmt: skip
        if roll < 0.82:
            return rng.choice(("noon", "midnight", "midday", "lunchtime", "noon"))
        if roll < 0.93:
            past = rng.choice(("half past", "quarter past", "quarter to", "ten past", "twenty to"))
            return f"{past} {word}"
        if roll < 0.97:
            return f"{rng.choice((str(h), word))} o'clock"
        return f"{rng.choice((str(h), word))} {rng.choice(DAY_PARTS)}"

    def _rarer_time(self) -> str:
        rng, words = self.rng, _RARER
        h, m, hour = rng.randint(1, 12), rng.choice((0, 5, 10, 15, 20, 30, 45)), rng.randint(0, 23)
        word, minutes = rng.choice(HOURS), rng.choice(words["minutes"])
        half, side = rng.choice("ap"), rng.choice(("past", "to"))
        few = rng.choice(("five", "ten", "twenty", "twenty-five"))
        big = half.upper() + "M"
        shapes = (
            f"{word} {minutes}", f"{word} {minutes}", f"{word} {minutes} {half}m", f"half {word}",
            f"{hour:02}{m:02}", f"{hour:02}{m:02} hrs", f"{hour:02}:{m:02} hrs", f"{hour}h",
            f"{h}:{m:02} {big}", f"{h}:{m:02}{big}", f"{h} {big}", f"{h}{big}", f"{hour}h{m:02}",
            f"{h}.{m:02} {half}.m.", f"{h}:{m:02} {half}.m.", f"{rng.choice((5, 10))} {side} {h}",
            f"half past {h}", f"quarter {side} {h}", f"quarter {side} {h}", f"a quarter {side} {h}",
            f"{few} {side} {word}", f"{word} {half}m", f"{word} {half}.m.", f"{h} sharp",
            f"{h}:{m:02} sharp", f"{h}ish", f"{h} {half}m sharp", f"{h} on the dot",
            rng.choice(words["hours"]), rng.choice(words["hours"]),
        )  # fmt: skip
        return rng.choice(shapes)

"""Keys and values of prompts that were met before, found again by what the prompts say.

A prompt that begins like an earlier one takes over the columns of what they have in common. Full
layers can be cut anywhere; a sliding layer has dropped what left its window, so that it can be cut
where it is still whole, at its end, and at the marks: places where its window was set aside.
What lies between the mark and the end of the common part is encoded again. A mark holds more than
what a chunk adds, so the marks of a prompt lie at doubling distances from its two ends: of a common
part at most half is encoded again, or as much as differs, if that is less.

What a request costs here depends on its own length, never on how many others are kept: they are
found by a number that stands for a beginning, and only what was found is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.cache import KVCache, LayerColumns

Tail = list[LayerColumns | None]

# A prefix is found by its whole ids, and by its beginnings of a multiple of so many.
_BLOCK = 16


class Prefix:
    """One request's columns, as far as they are encoded.

    ids (n,) int64. keys: one number for each of the n beginnings. taken: how many of the ids were
    encoded by another request.
    """

    def __init__(self) -> None:
        self.ids = torch.empty(0, dtype=torch.int64)
        self.keys: list[int] = []
        self.taken = 0
        self.cache: KVCache | None = None
        self._marks: dict[int, Tail] = {}

    def extend(self, ids: Sequence[int], cache: KVCache, *, mark: bool) -> None:
        """What has been encoded now: further ids, and all columns. mark: set the window aside.

        Columns are never written again, so what is kept here is shared with the request.
        """
        self.ids = torch.cat((self.ids, torch.tensor(ids, dtype=torch.int64)))
        self.keys += _keys(ids, after=self.keys[-1] if self.keys else 0)
        assert len(self.ids) == cache.length
        self.cache = cache.prefix(cache.length)
        if mark:
            self._mark({**self._marks, cache.length: cache.tail()})

    def absorbs(self, other: Prefix) -> bool:
        """Whether the other is a beginning of this one, which then takes over its marks."""
        if not torch.equal(other.ids, self.ids[: len(other.ids)]):
            return False
        self._mark(other._marks | self._marks)
        return True

    def _mark(self, marks: Mapping[int, Tail]) -> None:
        self._marks = {place: marks[place] for place in sorted(_apart(marks))}

    def beginning(self, ids: Tensor) -> Prefix | None:
        """The longest usable one that these ids share; None without any."""
        assert self.cache is not None
        width = min(len(ids), len(self.ids))
        other = (ids[:width] != self.ids[:width]).nonzero()
        place = int(other[0]) if len(other) else width
        found = self.cache.prefix(place) if place else None
        if found is None:
            place = max((mark for mark in self._marks if mark <= place), default=0)
            found = self.cache.prefix(place, self._marks[place]) if place else None
        if found is None:
            return None
        begun = Prefix()
        begun.ids, begun.keys, begun.taken = self.ids[:place], self.keys[:place], place
        # Cut from a longer one's memory it would keep all of that.
        begun.cache = found if place == self.cache.length else found.select(torch.tensor([0]))
        return begun

    @property
    def nbytes(self) -> int:
        """The marks at the end share the cache's memory."""
        assert self.cache is not None
        marks = [tail for place, tail in self._marks.items() if place < self.cache.length]
        columns = (t for tail in marks for pair in tail for t in pair or ())
        return self.cache.nbytes + sum(t.numel() * t.element_size() for t in columns)


class _Entry(NamedTuple):
    """length: of the prefix when it was kept. keys: the beginnings that it is found by, whole ids
    last."""

    nbytes: int
    length: int
    keys: list[int]


class PrefixCache:
    """Those of the latest requests; the one that was not of use for longest goes first."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._kept: dict[Prefix, _Entry] = {}  # the latest use last
        self._owners: dict[int, Prefix] = {}  # by the key of a beginning

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, prefix: Prefix) -> None:
        """As the latest. Those that are a beginning of it, as far as it is new, are forgotten, but
        for their marks. What that costs goes by what is new: all of what was forgotten itself."""
        length = len(prefix.keys)
        before = self._kept.pop(prefix, None) or _Entry(0, 0, [])
        owned, first = before.keys, before.length // _BLOCK * _BLOCK + _BLOCK
        if before.length % _BLOCK and owned and owned[-1] == prefix.keys[before.length - 1]:
            self._release(owned.pop(), prefix)
        for place in range(before.length + 1, length + 1):
            other = self._owners.get(prefix.keys[place - 1])
            if other is None or other is prefix or len(other.ids) != place:
                continue
            if prefix.absorbs(other):
                self._forget(other)
                first = _BLOCK  # by whose beginnings this one is found from now on
        for place in (*range(first, length, _BLOCK), length):
            key = prefix.keys[place - 1]
            owner = self._owners.get(key)
            # What it took over stays the other's, whose marks it lacks.
            if owner is None or (place > prefix.taken and owner is not prefix):
                self._owners[key] = prefix
                owned.append(key)
        self._kept[prefix] = _Entry(prefix.nbytes, length, owned)
        self.nbytes += self._kept[prefix].nbytes - before.nbytes

    def find(self, ids: Sequence[int]) -> Prefix:
        """The longest beginning of these ids that is known; without any an empty one."""
        wanted, keys = torch.tensor(ids, dtype=torch.int64), _keys(ids)
        best, source, tried = Prefix(), None, set()
        for place in range(len(keys), 0, -1):
            if place + _BLOCK <= len(best.ids) + 1:
                break  # whoever is found here shares no more
            owner = self._owners.get(keys[place - 1])
            if owner is None or owner in tried:
                continue
            tried.add(owner)
            found = owner.beginning(wanted)
            if found is not None and len(found.ids) > len(best.ids):
                best, source = found, owner
        if source is not None:
            self._kept[source] = self._kept.pop(source)
        return best

    def shrink(self, room: int) -> None:
        """Forget until no more than `room` bytes are held."""
        while self._kept and self.nbytes > room:
            self._forget(next(iter(self._kept)))

    def _forget(self, prefix: Prefix) -> None:
        entry = self._kept.pop(prefix, None)
        if entry is None:
            return
        self.nbytes -= entry.nbytes
        for key in entry.keys:
            self._release(key, prefix)
        # Its request may be at work, with columns of its own, and go on to extend it.
        prefix.cache, prefix._marks = None, {}

    def _release(self, key: int, prefix: Prefix) -> None:
        if self._owners.get(key) is prefix:
            del self._owners[key]


def _apart(places: Iterable[int]) -> set[int]:
    """Of these places so few that from 0, and from the last of them, each is at most twice as far
    as the one before it, wherever there was one. What was left out is not missed as others come."""
    kept, ordered = set[int](), sorted(places)
    for origin, line in ((0, ordered), (max(ordered, default=0), ordered[::-1])):
        at = 0
        while at < len(line):
            kept.add(line[at])
            distance = abs(line[at] - origin)
            near = [i for i, place in enumerate(line) if abs(place - origin) <= 2 * distance]
            at = max(near[-1], at + 1)
    return kept


def _keys(ids: Sequence[int], *, after: int = 0) -> list[int]:
    """One for each beginning of what follows the key `after`. Different ones may share a key."""
    return list(accumulate(ids, lambda key, token: hash((key, token)), initial=after))[1:]

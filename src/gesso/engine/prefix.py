"""Keys and values of prompts that were met before, found again by what the prompts say.

A prompt that begins like an earlier one takes over the columns of what they have in common. Full
layers can be cut anywhere; a sliding layer has dropped what left its window, so that it can be cut
where it is still whole, at its end, and at the marks: places where its window was set aside.
What lies between the mark and the end of the common part is encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gesso.cache import KVCache, LayerColumns

Tail = list[LayerColumns | None]


class Prefix:
    """One request's columns, as far as they are encoded."""

    def __init__(self) -> None:
        self.ids = torch.empty(0, dtype=torch.int64)
        self.cache: KVCache | None = None
        self._marks: dict[int, Tail] = {}

    def extend(self, ids: Sequence[int], cache: KVCache, *, mark: bool) -> None:
        """What has been encoded now: all ids, and their columns. mark: set the window aside.

        Columns are never written again, so what is kept here is shared with the request.
        """
        assert len(ids) == cache.length
        self.ids = torch.tensor(ids, dtype=torch.int64)
        self.cache = cache.prefix(cache.length)
        if mark:
            self._marks[cache.length] = cache.tail()

    def absorbs(self, other: Prefix) -> bool:
        """Whether the other is a beginning of this one, which then takes over its marks."""
        if not torch.equal(other.ids, self.ids[: len(other.ids)]):
            return False
        self._marks = other._marks | self._marks
        return True

    def common(self, ids: Tensor) -> KVCache | None:
        """Columns of the longest usable beginning that these ids share; None without any."""
        assert self.cache is not None
        width = min(len(ids), len(self.ids))
        other = (ids[:width] != self.ids[:width]).nonzero()
        shared = int(other[0]) if len(other) else width
        found = self.cache.prefix(shared) if shared else None
        if found is not None:
            return found
        mark = max((place for place in self._marks if place <= shared), default=None)
        return None if mark is None else self.cache.prefix(mark, self._marks[mark])

    @property
    def nbytes(self) -> int:
        """The marks at the end share the cache's memory."""
        assert self.cache is not None
        marks = [tail for place, tail in self._marks.items() if place < self.cache.length]
        columns = (t for tail in marks for pair in tail for t in pair or ())
        return self.cache.nbytes + sum(t.numel() * t.element_size() for t in columns)


class PrefixCache:
    """Those of the latest requests; the one that was not of use for longest goes first."""

    def __init__(self) -> None:
        self._kept: list[Prefix] = []  # the latest use last

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        return sum(prefix.nbytes for prefix in self._kept)

    def keep(self, prefix: Prefix) -> None:
        """As the latest. Those that are a beginning of it are forgotten, but for their marks."""
        others = [old for old in self._kept if old is not prefix]
        self._kept = [old for old in others if not prefix.absorbs(old)]
        self._kept.append(prefix)

    def find(self, ids: Sequence[int]) -> KVCache | None:
        """A cache of the longest beginning of these ids that is known."""
        wanted = torch.tensor(ids, dtype=torch.int64)
        best, source = None, None
        for prefix in self._kept:
            found = prefix.common(wanted)
            if found is not None and (best is None or found.length > best.length):
                best, source = found, prefix
        if source is not None:
            self._kept.remove(source)
            self._kept.append(source)
        return best

    def shrink(self, room: int) -> None:
        """Forget until no more than `room` bytes are held."""
        while self._kept and self.nbytes > room:
            self._kept.pop(0)

"""Keys and values of the encoded tokens.

Two ways in, told apart by type: a `CacheWriter` appends (prefill and commit), a `CacheView` only
reads (the canvas). Sliding layers keep the last window - 1 columns, padding columns counted, as
the reference does (model-spec §4, trap 15); full layers keep everything.

Keys and values may be kept in FP8 (e4m3), half of bfloat16's bytes. Both come out of a norm, so
they need no scale: nothing in them is larger than sqrt(D) times the norm's weight. A token's
columns are rounded before anyone reads them, its own pass included, so that neither chunks of a
prompt nor a prefix that is taken over change what is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.config import TextConfig

LayerColumns = tuple[Tensor, Tensor]
# What columns can be kept in; None is the dtype that they come in.
KV_CACHE_DTYPES: dict[str, torch.dtype | None] = {"auto": None, "fp8": torch.float8_e4m3fn}


def parse_kv_cache_dtype(name: str) -> torch.dtype | None:
    """Of `KV_CACHE_DTYPES` by name. ValueError: no such name."""
    if not isinstance(name, str) or name not in KV_CACHE_DTYPES:
        raise ValueError(
            f"kv_cache_dtype: got {name!r}; expected one of {', '.join(KV_CACHE_DTYPES)}"
        )
    return KV_CACHE_DTYPES[name]


class KVCache:
    """Columns 0 .. length-1 of a batch, one (keys, values) pair a layer.

    mask (B, length) bool marks real columns, None when all are real.
    """

    def __init__(
        self,
        config: TextConfig,
        *,
        batch_size: int,
        trim: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """trim=False keeps every column on sliding layers too: training reads from the middle.
        dtype: what columns are kept in, by default what they come in."""
        self.config = config
        self.batch_size = batch_size
        self.length = 0
        self.mask: Tensor | None = None
        self._trim = trim
        self._dtype = dtype
        self._read_as: torch.dtype | None = None
        self._layers: list[LayerColumns | None] = [None] * config.num_layers

    def layer(self, index: int) -> LayerColumns:
        """(keys, values) of a layer, each (B, K, kept, D), in the dtype that they came in.
        ValueError while nothing is encoded."""
        return self._widen(self.stored(index), self._read_as)

    def stored(self, index: int) -> LayerColumns:
        """`layer` as it is kept."""
        kept = self._layers[index]
        if kept is None:
            raise ValueError("the cache is empty; encode a prompt first")
        return kept

    @property
    def is_wide(self) -> bool:
        """Whether columns are kept as they come in."""
        return self._dtype is None

    def kept(self, index: int) -> int:
        """How many columns a layer holds."""
        kept = self._layers[index]
        return 0 if kept is None else kept[0].shape[2]

    def select(self, rows: Tensor) -> KVCache:
        """A cache of the given rows (int64 indices) alone; this one stays as it is."""
        chosen = self._like(batch_size=len(rows))
        chosen.length = self.length
        chosen.mask = None if self.mask is None else self.mask[rows]
        chosen._layers = [
            None if kept is None else (kept[0][rows], kept[1][rows]) for kept in self._layers
        ]
        return chosen

    def detach(self) -> KVCache:
        """The same columns, through which no gradient flows."""
        cut = self._like(batch_size=self.batch_size)
        cut.length, cut.mask = self.length, self.mask
        cut._layers = [
            None if kept is None else (kept[0].detach(), kept[1].detach()) for kept in self._layers
        ]
        return cut

    def prefix(self, length: int, tail: Sequence[LayerColumns | None] = ()) -> KVCache | None:
        """A cache of the first `length` columns, which shares this one's memory.

        None where a sliding layer no longer holds the window before that column. tail: what
        `tail` gave when the cache was that long.
        """
        assert self.mask is None, "columns of padded rows stand at different places"
        shorter = self._like(batch_size=self.batch_size)
        shorter.length = length
        for index, kept in enumerate(self._layers):
            first = self.length - self.kept(index)
            wanted = 0 if first == 0 else max(0, length - self.config.sliding_window + 1)
            if length < self.length and tail and tail[index] is not None:
                shorter._layers[index] = tail[index]
            elif kept is None or length > self.length or wanted < first:
                return None
            else:
                columns = slice(wanted - first, length - first)
                shorter._layers[index] = kept[0][:, :, columns], kept[1][:, :, columns]
        return shorter

    def tail(self) -> list[LayerColumns | None]:
        """Layer by layer the columns that a longer cache will have dropped; None where it keeps
        them."""
        return [
            None if self.config.is_full(index) else kept for index, kept in enumerate(self._layers)
        ]

    @contextmanager
    def untrimmed(self) -> Iterator[None]:
        """While it lasts what is written drops no columns; `cut` makes up for that afterwards."""
        trim, self._trim = self._trim, False
        try:
            yield
        finally:
            self._trim = trim

    def cut(self, length: int) -> None:
        """Drop the columns from `length` on, whose windows must still be there, and trim."""
        assert self.mask is None, "columns of padded rows stand at different places"
        for index, kept in enumerate(self._layers):
            if kept is not None:
                self._layers[index] = self._cut(index, kept, self.length - length)
        self.length = length

    def _cut(self, index: int, pair: LayerColumns, behind: int) -> LayerColumns:
        """A layer's columns but the last so many, trimmed to the window where that is done."""
        end = pair[0].shape[2] - behind
        window = self.config.sliding_window - 1
        trimmed = self._trim and not self.config.is_full(index)
        first = max(0, end - window) if trimmed else 0
        if first == 0 and not behind:
            return pair
        # Copies, so that the columns which fell out of the window are freed.
        keys, values = (t.narrow(2, first, end - first).clone() for t in pair)
        return keys, values

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for kept in self._layers for t in kept or ())

    def _like(self, *, batch_size: int) -> KVCache:
        """An empty one of the same kind."""
        other = KVCache(self.config, batch_size=batch_size, trim=self._trim, dtype=self._dtype)
        other._read_as = self._read_as
        return other

    def _narrow(self, columns: Tensor) -> Tensor:
        if self._dtype is None:
            return columns
        # Past the largest number there is no infinity to round to.
        most = torch.finfo(self._dtype).max
        return columns.clamp(-most, most).to(self._dtype)

    def _widen(self, kept: LayerColumns, dtype: torch.dtype | None) -> LayerColumns:
        if self._dtype is None or dtype is None:
            return kept
        return kept[0].to(dtype), kept[1].to(dtype)


def cache_bytes(config: TextConfig, columns: int, dtype: torch.dtype, *, trim: bool = True) -> int:
    """Of one row's keys and values of so many columns; trim: with sliding layers' windows alone."""
    return dtype.itemsize * sum(_numbers(config, columns, trim=trim))


def widened_bytes(config: TextConfig, columns: int, dtype: torch.dtype) -> int:
    """Of the largest layer's columns as a pass in this dtype reads them where they are kept in
    fewer bits, and of the same once more with those that it adds."""
    return 2 * dtype.itemsize * max(_numbers(config, columns, trim=True))


def _numbers(config: TextConfig, columns: int, *, trim: bool) -> Iterator[int]:
    """In each layer's keys and values of one row."""
    for index in range(config.num_layers):
        heads, dim = config.heads(index)
        cut = trim and not config.is_full(index)
        yield 2 * heads * dim * (min(columns, config.sliding_window - 1) if cut else columns)


def stack(caches: Sequence[KVCache]) -> KVCache:
    """One cache of single-row caches, shorter rows padded on the left with masked columns.

    One alone is given back as it is.
    """
    if len(caches) == 1:
        return caches[0]
    longest = max(cache.length for cache in caches)
    joined = caches[0]._like(batch_size=len(caches))
    joined.length = longest
    for index in range(len(joined._layers)):
        width = max(cache.kept(index) for cache in caches)
        pairs = [cache.stored(index) for cache in caches]
        keys, values = (
            torch.cat([F.pad(t, (0, 0, width - t.shape[2], 0)) for t in side])
            for side in zip(*pairs, strict=True)
        )
        joined._layers[index] = keys, values
    if any(cache.length < longest for cache in caches):
        column = torch.arange(longest, device=keys.device)
        pads = torch.tensor([longest - cache.length for cache in caches], device=keys.device)
        joined.mask = column >= pads[:, None]
    return joined


class CacheWriter:
    """One causal pass over `columns` new columns. Nothing is kept until `close`."""

    def __init__(self, cache: KVCache, *, columns: int, mask: Tensor | None) -> None:
        """mask (B, columns) bool marks the real ones among the new columns; None: all are."""
        self.cache = cache
        self.columns = columns
        self._old = list(cache._layers)
        self._new: list[LayerColumns | None] = [None] * cache.config.num_layers
        self._read_as: torch.dtype | None = None
        self._mask = _join_masks(cache, columns, mask)

    @property
    def mask(self) -> Tensor | None:
        """(B, old + new columns) bool, or None when none is padding."""
        return self._mask

    def join(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Cached and new columns of a layer: (B, K, kept + columns, D) each.

        It writes nothing, and gives the same after `close`: a layer may be computed again for its
        gradient.
        """
        cache, kept, dtype = self.cache, self._old[index], keys.dtype
        keys, values = cache._widen((cache._narrow(keys), cache._narrow(values)), dtype)
        if kept is None:
            return keys, values
        old_keys, old_values = cache._widen(kept, dtype)
        return torch.cat((old_keys, keys), 2), torch.cat((old_values, values), 2)

    def keep(self, index: int, keys: Tensor, values: Tensor) -> None:
        """What `join` gave a layer is to be its cache."""
        self._read_as = keys.dtype
        self._new[index] = self.cache._narrow(keys), self.cache._narrow(values)

    def close(self) -> None:
        """Keep what was written, trimmed to the window."""
        cache = self.cache
        assert None not in self._new, "a pass ended before its last layer"
        for index in range(len(self._new)):
            # Layer by layer, so that what is trimmed is never there whole and trimmed of all.
            pair, self._new[index] = self._new[index], None
            assert pair is not None
            # One memory layout, whatever the pass made: every step of a canvas reads it.
            keys, values = (t.contiguous() for t in cache._cut(index, pair, 0))
            cache._layers[index] = keys, values
        cache._read_as = self._read_as
        cache.length += self.columns
        cache.mask = self._mask


class CacheView:
    """Read-only: what a canvas that starts after the last column, or at `starts`, may see."""

    def __init__(self, cache: KVCache, *, starts: Tensor | None = None) -> None:
        """starts (B,) int64: each row's canvas begins at that column and sees only earlier ones.

        Needs a cache that keeps every column when a start lies before the end.
        """
        self.cache = cache
        self._starts = starts
        self._masks: dict[bool, Tensor | None] = {}

    def layer(self, index: int) -> LayerColumns:
        return self.cache.layer(index)

    def mask(self, index: int) -> Tensor | None:
        """(B, kept) bool of the columns to see, None for all. The same for every canvas row:
        the window is anchored at the canvas start (model-spec §5, trap 16)."""
        full = self.cache.config.is_full(index)
        if full not in self._masks:
            self._masks[full] = self._make_mask(index)
        return self._masks[full]

    def _make_mask(self, index: int) -> Tensor | None:
        cache, kept = self.cache, self.cache.kept(index)
        mask = None if cache.mask is None else cache.mask[:, cache.length - kept :]
        starts = self._starts
        if starts is None:
            if cache.config.is_full(index) or kept < cache.config.sliding_window:
                return mask
            device = cache.stored(index)[0].device
            starts = torch.full((cache.batch_size,), cache.length, device=device)
        column = torch.arange(cache.length - kept, cache.length, device=starts.device)
        seen = column < starts[:, None]
        if not cache.config.is_full(index):
            seen &= column > starts[:, None] - cache.config.sliding_window
        return seen if mask is None else seen & mask


def _join_masks(cache: KVCache, columns: int, mask: Tensor | None) -> Tensor | None:
    if mask is not None and bool(mask.all()):
        mask = None
    if mask is None and cache.mask is None:
        return None
    old = cache.mask
    if old is None:
        assert mask is not None
        old = mask.new_ones(cache.batch_size, cache.length)
    if mask is None:
        mask = old.new_ones(cache.batch_size, columns)
    return torch.cat((old, mask), 1)

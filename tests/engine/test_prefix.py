"""The prefix cache by itself: what it finds, what it holds, and what a request costs there."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gesso.cache import CacheWriter, KVCache
from gesso.config import ModelConfig, TextConfig
from gesso.engine.prefix import Prefix, PrefixCache

RawConfig = Callable[..., dict[str, Any]]


def encode(cache: KVCache, ids: Sequence[int]) -> None:
    """Columns that are the ids."""
    config = cache.config
    writer = CacheWriter(cache, columns=len(ids), mask=None)
    for index in range(config.num_layers):
        heads, dim = config.heads(index)
        new = torch.tensor(ids).float()[None, None, :, None].expand(1, heads, -1, dim)
        writer.keep(index, *writer.join(index, new, new))
    writer.close()


def serve(known: PrefixCache, config: TextConfig, *parts: Sequence[int]) -> Prefix:
    """A request whose columns are its ids, encoded in these parts; the first asks what is known."""
    prefix = known.find(parts[0])
    cache = prefix.cache or KVCache(config, batch_size=1)
    for place, part in enumerate(parts):
        if rest := list(part[cache.length if place == 0 else 0 :]):
            encode(cache, rest)
            prefix.extend(rest, cache, mark=place == 0)
            known.keep(prefix)
    return prefix


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    width = min(len(a), len(b))
    return next((i for i in range(width) if a[i] != b[i]), width)


ids = st.lists(st.integers(0, 1), min_size=1, max_size=12)


@settings(
    max_examples=200, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    requests=st.lists(st.tuples(ids, ids), min_size=1, max_size=8), block=st.sampled_from([1, 4])
)
def test_the_longest_beginning_is_found(
    requests: list[tuple[list[int], list[int]]],
    block: int,
    raw_config: RawConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To less than a block, where all layers can be cut anywhere; and its columns are its own."""
    monkeypatch.setattr("gesso.engine.prefix._BLOCK", block)
    config = ModelConfig.parse(raw_config(layer_types=["full_attention"] * 3)).text
    known, earlier = PrefixCache(), []
    for prompt, answer in requests:
        found = known.find(prompt)
        longest = max((shared(prompt, other) for other in earlier), default=0)
        assert longest - block < len(found.ids) <= longest
        assert found.ids.tolist() == prompt[: len(found.ids)]
        if found.cache is not None:
            keys, _ = found.cache.layer(2)
            assert keys[0, 0, :, 0].tolist() == found.ids.tolist()
        served = serve(known, config, prompt, answer)
        assert served.ids.tolist() == prompt + answer
        earlier.append(prompt + answer)
        assert known.nbytes == sum(kept.nbytes for kept in known._kept)
        assert set(known._owners.values()) == set(known._kept)
    known.shrink(0)
    assert (len(known), known.nbytes, known._owners) == (0, 0, {})


def test_the_one_not_of_use_for_longest_goes_first(raw_config: RawConfig) -> None:
    config = ModelConfig.parse(raw_config()).text
    known = PrefixCache()
    for first in range(3):
        serve(known, config, [first] * 20)
    assert len(known.find([0] * 20).ids) == 20
    known.shrink(known.nbytes - 1)
    assert [len(known.find([first] * 20).ids) for first in range(3)] == [20, 0, 20]


def test_what_was_absorbed_late_is_still_found(raw_config: RawConfig) -> None:
    """The same request again and again: it comes to the end of the one before when its own
    beginning is kept already."""
    config = ModelConfig.parse(raw_config()).text
    known = PrefixCache()
    for _ in range(4):
        serve(known, config, [7] * 20, [8] * 3, [9] * 3)
        assert len(known) == 1
        assert len(known.find([7] * 20 + [5]).ids) == 20


def pinned(cache: KVCache) -> int:
    """Bytes of all the memory that its columns lie in."""
    stores = [t.untyped_storage() for i in range(cache.config.num_layers) for t in cache.stored(i)]
    return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


def test_what_was_found_keeps_nothing_of_a_longer_one(raw_config: RawConfig) -> None:
    config = ModelConfig.parse(raw_config()).text
    known = PrefixCache()
    serve(known, config, [7] * 20, [8] * 400)
    found = known.find([7] * 20).cache
    assert found is not None
    assert pinned(found) == found.nbytes < known.nbytes / 4


def test_what_is_forgotten_while_it_grows_holds_nothing(raw_config: RawConfig) -> None:
    """Its request has columns of its own; windows set aside for others are nobody's then."""
    config = ModelConfig.parse(raw_config()).text
    known = PrefixCache()
    grown = serve(known, config, [7] * 20)
    known.shrink(0)
    assert (grown.cache, grown._marks) == (None, {})
    cache = KVCache(config, batch_size=1)
    encode(cache, [7] * 40)
    grown.extend([7] * 20, cache, mark=True)
    known.keep(grown)
    assert len(known.find([7] * 40).ids) == 40
    known.shrink(0)
    assert (grown.cache, grown._marks) == (None, {})


def test_a_long_prompt_has_few_marks_and_loses_little_by_it(raw_config: RawConfig) -> None:
    """In chunks of 10; of what another one shares with it at most half is encoded again, or as much
    as it does not share."""
    config = ModelConfig.parse(raw_config()).text
    known, cache = PrefixCache(), KVCache(config, batch_size=1)
    long = known.find([7])
    for _ in range(128):
        encode(cache, [7] * 10)
        long.extend([7] * 10, cache, mark=True)
        known.keep(long)
    assert len(long._marks) <= 2 * 8  # 1,280 tokens are 2 to the 7th chunks
    for place in range(40, 1280, 30):
        found = len(known.find([7] * place + [8] * 1280).ids)
        assert place // 10 * 10 / 2 <= found <= place
        assert place - found <= 10 + (1280 - place)


def test_a_request_costs_the_same_however_many_are_kept(
    raw_config: RawConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in what touches whole ids or columns of one that is kept."""
    config = ModelConfig.parse(raw_config()).text
    calls: list[str] = []
    for name in ("beginning", "absorbs"):
        plain = getattr(Prefix, name)
        monkeypatch.setattr(
            Prefix, name, lambda *given, plain=plain, name=name: calls.append(name) or plain(*given)
        )
    size = Prefix.nbytes.fget
    monkeypatch.setattr(Prefix, "nbytes", property(lambda self: calls.append("size") or size(self)))
    known, template = PrefixCache(), [7] * 20
    for number in range(100):
        calls.clear()
        serve(known, config, [*template, *divmod(number, 10), *range(20)])
        known.shrink(10**12)
        if number > 10:
            assert len(calls) <= 6
    calls.clear()
    assert len(known.find([8] * 40).ids) == 0
    assert calls == []
    assert len(known) == 100

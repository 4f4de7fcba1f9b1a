"""Laws of encoding, committing and denoising, on a small random network."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gesso.cache import KVCache
from gesso.model.network import Network

# Float32 sums in another order, as when a row is computed in another batch: 1e-6 of a few units.
TOLERANCE = 1e-5

WINDOW, CANVAS, VOCABULARY, IMAGE = 6, 5, 96, 90


@pytest.fixture
def network(make_network: Callable[..., Network]) -> Network:
    return make_network()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 90, shape, generator=torch.Generator().manual_seed(seed))


def encoded(network: Network, ids: Tensor, *, trim: bool = True, **keys: Tensor) -> KVCache:
    cache = network.new_cache(batch_size=len(ids), trim=trim)
    network.encode(ids, cache=cache, **keys)
    return cache


def a_soft(network: Network, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return network.soft_embed(3 * torch.randn(batch, CANVAS, VOCABULARY, generator=generator))


def left_padded(*lengths: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids, mask, and positions that count real tokens alone."""
    width = max(lengths)
    mask = torch.arange(width) >= width - torch.tensor(lengths)[:, None]
    return tokens(len(lengths), width) * mask, mask, (mask.cumsum(1) - 1).clamp(min=0)


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


def assert_same_mask(a: Tensor | None, b: Tensor | None) -> None:
    if a is None or b is None:
        assert a is b
    else:
        assert torch.equal(a, b)


def assert_same_cache(a: KVCache, b: KVCache) -> None:
    assert a.length == b.length
    assert_same_mask(a.mask, b.mask)
    for index in range(a.config.num_layers):
        for mine, yours in zip(a.layer(index), b.layer(index), strict=True):
            assert_close(mine, yours)


@pytest.mark.parametrize("cuts", [[1], [3], [WINDOW], [WINDOW - 1, 1, 1], [2, 9, 3], [1] * 16])
def test_chunks_equal_one_pass(network: Network, cuts: list[int]) -> None:
    ids = tokens(2, 17)
    whole, parts = network.new_cache(batch_size=2), network.new_cache(batch_size=2)
    hidden = network.encode(ids, cache=whole)
    chunks = ids.split([*cuts, 17 - sum(cuts)], dim=1)
    assert_close(torch.cat([network.encode(chunk, cache=parts) for chunk in chunks], 1), hidden)
    assert_same_cache(whole, parts)


def test_chunks_of_a_padded_batch(network: Network) -> None:
    ids, mask, _ = left_padded(13, 9)
    whole, parts = network.new_cache(batch_size=2), network.new_cache(batch_size=2)
    hidden = network.encode(ids, cache=whole, mask=mask)
    pieces = [
        network.encode(ids[:, cut], cache=parts, mask=mask[:, cut])
        for cut in (slice(6), slice(6, 13))
    ]
    assert_close(torch.cat(pieces, 1)[mask], hidden[mask])
    canvas = tokens(2, CANVAS)
    assert_close(network.denoise(canvas, cache=parts), network.denoise(canvas, cache=whole))


@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, 14])
def test_commit_equals_prefill(network: Network, length: int) -> None:
    prompt, canvas = tokens(2, length), tokens(2, CANVAS, seed=1)
    committed = encoded(network, prompt)
    # What a canvas pass computed leaves no trace in what is committed.
    network.denoise(canvas, cache=committed, soft=a_soft(network, 2))
    network.encode(canvas, cache=committed)
    assert_same_cache(committed, encoded(network, torch.cat((prompt, canvas), 1)))


def test_sliding_layers_keep_a_window_less_one(network: Network) -> None:
    for length, kept in ((WINDOW - 2, WINDOW - 2), (WINDOW - 1, WINDOW - 1), (14, WINDOW - 1)):
        cache = encoded(network, tokens(1, length))
        assert (cache.kept(0), cache.kept(1), cache.length) == (kept, length, length)
        assert encoded(network, tokens(1, length), trim=False).kept(0) == length


@pytest.mark.parametrize("kept", [0, 1, WINDOW, 9])
def test_columns_that_are_cut_leave_no_trace(network: Network, kept: int) -> None:
    """What was read in vain, a window and more of it, is read again with other tokens."""
    ids, wrong = tokens(1, 19), tokens(1, 9, seed=1)
    cache = encoded(network, ids[:, :8])
    with cache.untrimmed():
        network.encode(torch.cat((ids[:, 8 : 8 + kept], wrong[:, kept:]), 1), cache=cache)
    cache.cut(8 + kept)
    assert_same_cache(cache, encoded(network, ids[:, : 8 + kept]))
    network.encode(ids[:, 8 + kept :], cache=cache)
    assert_same_cache(cache, encoded(network, ids))


def in_fp8(t: Tensor) -> Tensor:
    return t.to(torch.float8_e4m3fn).to(t.dtype)


@pytest.mark.parametrize("cuts", [[1], [WINDOW], [2, 9, 3], [1] * 16])
def test_a_cache_in_fp8(network: Network, cuts: list[int]) -> None:
    """Columns are rounded once, before anyone reads them, however the prompt is cut; a quarter of
    float32's bytes."""
    ids, canvas = tokens(2, 17), tokens(2, CANVAS)
    wide = encoded(network, ids)
    network.kv_cache_dtype = torch.float8_e4m3fn
    whole, parts = encoded(network, ids), network.new_cache(batch_size=2)
    for chunk in ids.split([*cuts, 17 - sum(cuts)], dim=1):
        network.encode(chunk, cache=parts)
    assert 4 * whole.nbytes == 4 * parts.nbytes == wide.nbytes
    for index in range(whole.config.num_layers):
        for mine, other in zip(whole.layer(index), parts.layer(index), strict=True):
            assert torch.equal(mine, in_fp8(mine))
            # A float32 sum in another order may round to the next number: a sixteenth away.
            torch.testing.assert_close(mine, other, rtol=1 / 8, atol=2**-9)
            assert (mine == other).double().mean() > 0.99
    # The first layer's columns depend on no other columns.
    for mine, other in zip(whole.layer(0), wide.layer(0), strict=True):
        assert torch.equal(mine, in_fp8(other))
    # A canvas reads the rounded columns, and its own as they are.
    rounded = wide.select(torch.arange(2))
    rounded._layers = [whole.layer(index) for index in range(whole.config.num_layers)]
    assert torch.equal(network.denoise(canvas, cache=whole), network.denoise(canvas, cache=rounded))


def test_keys_past_the_range_of_fp8_stay_numbers(network: Network) -> None:
    network.kv_cache_dtype = torch.float8_e4m3fn
    with torch.no_grad():
        network.layers[0].attention.k_norm.weight.fill_(1e4)
    keys, _ = encoded(network, tokens(1, 4)).layer(0)
    assert keys.abs().max() == 448


@pytest.mark.parametrize("lengths", [(4, 4), (14, 14), (14, 9)], ids=str)
def test_denoise_only_reads(network: Network, lengths: tuple[int, ...]) -> None:
    ids, mask, _ = left_padded(*lengths)
    cache = encoded(network, ids, mask=mask)
    before = [tuple(t.clone() for t in cache.layer(i)) for i in range(cache.config.num_layers)]
    old_mask = None if cache.mask is None else cache.mask.clone()
    first = network.denoise(tokens(2, CANVAS), cache=cache)
    network.denoise(tokens(2, CANVAS, seed=1), cache=cache, soft=a_soft(network, 2))
    for index, pair in enumerate(before):
        assert all(map(torch.equal, pair, cache.layer(index)))
    assert cache.length == ids.shape[1]
    assert_same_mask(old_mask, cache.mask)
    assert torch.equal(network.denoise(tokens(2, CANVAS), cache=cache), first)


def everything(network: Network) -> list[Tensor]:
    """Images, padding, a canvas with and without a soft embedding, a commit, both expert paths."""
    pixels = torch.rand(8, 48, generator=torch.Generator().manual_seed(4))
    places = torch.tensor([[x, y] for y in range(2) for x in range(4)])
    images = network.embed_image(pixels, places)
    ids, mask, _ = left_padded(12, 7)
    ids[:, 8:10] = IMAGE
    cache = network.new_cache(batch_size=2)
    out = [network.encode(ids, cache=cache, mask=mask, images=torch.cat((images, images)))]
    out.append(network.denoise(tokens(2, CANVAS), cache=cache))
    out.append(network.denoise(tokens(2, CANVAS), cache=cache, soft=a_soft(network, 2)))
    out.append(network.encode(tokens(2, CANVAS), cache=cache))
    return out + [t for index in range(cache.config.num_layers) for t in cache.layer(index)]


@pytest.mark.parametrize("groups", [True, False])
def test_nothing_is_read_before_it_is_written(
    network: Network, groups: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not groups:
        monkeypatch.setattr("gesso.kernels.experts._can_group", lambda *_: False)
    clean = everything(network)
    request.getfixturevalue("poisoned_memory")
    for poisoned, plain in zip(everything(network), clean, strict=True):
        assert poisoned.isfinite().all()
        assert_close(poisoned, plain)


@pytest.mark.parametrize("length", [3, 14])
def test_a_row_does_not_depend_on_its_batch_mates(network: Network, length: int) -> None:
    ids, canvas, soft = tokens(3, length), tokens(3, CANVAS, seed=1), a_soft(network, 3)
    together = encoded(network, ids)
    logits = network.denoise(canvas, cache=together, soft=soft)
    for row in range(3):
        part = slice(row, row + 1)
        alone = encoded(network, ids[part])
        assert_same_cache(together.select(torch.tensor([row])), alone)
        assert_close(logits[part], network.denoise(canvas[part], cache=alone, soft=soft[part]))


def test_select(network: Network) -> None:
    ids, mask, _ = left_padded(12, 7, 4)
    cache, rows = encoded(network, ids, mask=mask), torch.tensor([2, 0, 0])
    chosen = cache.select(rows)
    assert chosen.batch_size == 3
    canvas = tokens(3, CANVAS)
    assert_close(
        network.denoise(canvas[rows], cache=chosen), network.denoise(canvas, cache=cache)[rows]
    )
    # What is appended to the chosen rows does not reach the first cache.
    network.encode(canvas, cache=chosen)
    assert (chosen.length, cache.length) == (12 + CANVAS, 12)
    assert_same_cache(cache, encoded(network, ids, mask=mask))


@pytest.mark.parametrize("own_positions", [True, False])
@pytest.mark.parametrize("lengths", [(5, 3), (15, 9), (15, 2)], ids=str)
def test_padding_does_not_show(
    network: Network, lengths: tuple[int, ...], own_positions: bool
) -> None:
    """Also where a padded row counts its columns from the batch's first, as the reference does:
    only distances matter to the rotation. Through a commit and the next canvas."""
    ids, mask, positions = left_padded(*lengths)
    canvas, soft = tokens(2, CANVAS, seed=1), a_soft(network, 2)
    cache = network.new_cache(batch_size=2)
    keys: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    later: dict[str, Tensor] = {}
    if own_positions:
        keys = {"positions": positions}
        after = {"positions": torch.tensor(lengths)[:, None] + torch.arange(CANVAS)}
        later = {"positions": after["positions"] + CANVAS}
    hidden = network.encode(ids, cache=cache, mask=mask, **keys)
    logits = network.denoise(canvas, cache=cache, soft=soft, **after)
    network.encode(canvas, cache=cache, **after)
    next_logits = network.denoise(canvas, cache=cache, **later)
    for row, length in enumerate(lengths):
        part, alone = slice(row, row + 1), network.new_cache(batch_size=1)
        assert_close(hidden[part, -length:], network.encode(ids[part, -length:], cache=alone))
        assert_close(logits[part], network.denoise(canvas[part], cache=alone, soft=soft[part]))
        network.encode(canvas[part], cache=alone)
        assert_close(next_logits[part], network.denoise(canvas[part], cache=alone))


@pytest.mark.parametrize("starts", [(1, 3), (WINDOW - 1, WINDOW), (14, 9), (20, 20)], ids=str)
def test_a_canvas_from_the_middle_sees_what_came_before(
    network: Network, starts: tuple[int, ...]
) -> None:
    """Training's view of an untrimmed cache equals generation's of one that ends at the start."""
    ids, canvas, soft = tokens(2, 20), tokens(2, CANVAS, seed=1), a_soft(network, 2)
    begin = torch.tensor(starts)
    logits = network.denoise(
        canvas,
        cache=encoded(network, ids, trim=False),
        soft=soft,
        starts=begin,
        positions=begin[:, None] + torch.arange(CANVAS),
    )
    for row, start in enumerate(starts):
        part = slice(row, row + 1)
        cache = encoded(network, ids[part, :start])
        assert_close(logits[part], network.denoise(canvas[part], cache=cache, soft=soft[part]))


def test_starts_in_a_padded_batch(network: Network) -> None:
    ids, mask, _ = left_padded(18, 11)
    canvas, start = tokens(2, CANVAS, seed=1), 13
    logits = network.denoise(
        canvas,
        cache=encoded(network, ids, trim=False, mask=mask),
        starts=torch.full((2,), start),
        positions=start + torch.arange(CANVAS)[None],
    )
    cache = encoded(network, ids[:, :start], mask=mask[:, :start])
    assert_close(logits, network.denoise(canvas, cache=cache))


def test_encoding_is_causal(network: Network) -> None:
    ids = tokens(1, 12)
    changed = ids.clone()
    changed[0, 7] += 1
    a, b = (network.encode(x, cache=network.new_cache(batch_size=1)) for x in (ids, changed))
    assert_close(a[:, :7], b[:, :7])
    assert (a[:, 7:] - b[:, 7:]).abs().amax(-1).min() > 10 * TOLERANCE


def test_tokens_of_one_image_see_each_other_and_two_images_do_not(network: Network) -> None:
    """Whatever the order and the window; a token between two images keeps them apart."""
    ids = tokens(1, 24)
    ids[0, 3:12] = IMAGE  # longer than the window
    ids[0, 13:15] = IMAGE
    soft = torch.randn(11, 32, generator=torch.Generator().manual_seed(5))

    def hidden(changed: int) -> Tensor:
        images = soft.clone()
        images[changed] += 1
        return network.encode(ids, cache=network.new_cache(batch_size=1), images=images)[0]

    plain = network.encode(ids, cache=network.new_cache(batch_size=1), images=soft)[0]
    moved = [(hidden(i) - plain).abs().amax(-1) > 10 * TOLERANCE for i in (8, 10)]
    assert moved[0].tolist() == [False] * 3 + [True] * 21  # the last of the first image
    assert moved[1].tolist() == [False] * 13 + [True] * 11  # the last of the second


def test_every_canvas_token_sees_the_whole_canvas(network: Network) -> None:
    cache, canvas = encoded(network, tokens(1, 14)), tokens(1, CANVAS, seed=1)
    plain = network.denoise(canvas, cache=cache)
    for place in (0, CANVAS - 1):
        changed = canvas.clone()
        changed[0, place] += 1
        difference = (network.denoise(changed, cache=cache) - plain).abs().amax(-1)
        assert difference.min() > 10 * TOLERANCE


def test_rounding_of_the_embedding_in_bfloat16(network: Network) -> None:
    """As in the reference: the scale is rounded to the weights' dtype before it multiplies
    (trap 14), and logits before their softmax (trap 12)."""
    network = network.to(torch.bfloat16)
    scale = torch.tensor(32**0.5).bfloat16()
    certain = 1e4 * torch.eye(VOCABULARY)
    assert torch.equal(network.soft_embed(certain), network.embed.weight * scale)
    generator = torch.Generator().manual_seed(6)
    logits = 4 * torch.randn(20, VOCABULARY, generator=generator)
    soft = network.soft_embed(logits)
    assert soft.dtype == torch.bfloat16
    assert torch.equal(soft, network.soft_embed(logits.bfloat16()))


def test_a_canvas_without_a_prompt_is_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="encode a prompt first"):
        network.denoise(tokens(1, CANVAS), cache=network.new_cache(batch_size=1))


def test_images_need_a_checkpoint_that_has_them(make_network: Callable[..., Network]) -> None:
    network = make_network(vision=False)
    with pytest.raises(ValueError, match="no image encoder; give it text only"):
        network.embed_image(torch.zeros(4, 48), torch.zeros(4, 2, dtype=torch.long))


def test_image_places_and_soft_tokens_must_match(network: Network) -> None:
    ids = tokens(1, 6)
    ids[0, 2:4] = IMAGE
    with pytest.raises(ValueError, match=r"2 image places and 3 soft tokens"):
        network.encode(ids, cache=network.new_cache(batch_size=1), images=torch.zeros(3, 32))

"""Philox against its authors' known answers, and the laws of what is made of its words."""

import itertools

import pytest
import torch

from gesso.diffusion.rng import (
    SEED_LIMIT,
    Stream,
    philox,
    random_bits,
    split_seeds,
    to_token,
    to_uniform,
)

CPU = torch.device("cpu")

# Random123, tests/kat_vectors, philox4x32 10: counter, key, answer.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text: str) -> list[torch.Tensor]:
    return [torch.tensor(int(word, 16)) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter: str, key: str, answer: str) -> None:
    assert philox(words(key), words(counter)) == tuple(words(answer))


def test_known_answer_in_a_tensor_of_others() -> None:
    """Broadcasting computes each element by itself."""
    columns = [torch.stack(c) for c in zip(*(words(k[0]) for k in KNOWN), strict=True)]
    keys = [torch.stack(k) for k in zip(*(words(k[1]) for k in KNOWN), strict=True)]
    got = torch.stack(philox(keys, columns), dim=1).tolist()
    assert got == [[int(w) for w in words(k[2])] for k in KNOWN]


def test_where_the_counter_comes_from() -> None:
    """Key = the seed's halves, low first; counter = (position, step, canvas, stream)."""
    seed = 0x299F31D0_A4093822
    bits = random_bits(split_seeds([seed], CPU), canvas=7, steps=range(5, 8), length=4)
    assert bits.shape == (len(Stream), 1, 3, 4)
    for stream, step, position in itertools.product(Stream, range(3), range(4)):
        counter = [torch.tensor(c) for c in (position, 5 + step, 7, int(stream))]
        expected = philox(words("a4093822 299f31d0"), counter)[0]
        assert bits[stream, 0, step, position] == expected


def draw(
    seeds: list[int],
    *,
    stream: Stream = Stream.SAMPLE,
    canvas: int = 0,
    steps: range = range(2),
    length: int = 64,
) -> torch.Tensor:
    bits = random_bits(split_seeds(seeds, CPU), canvas=canvas, steps=steps, length=length)
    return bits[stream]


def test_every_part_of_the_counter_and_key_matters() -> None:
    """64-bit seeds differ in both halves: the low bit, bit 32 and the top bit each count."""
    base = draw([5])
    others = [
        draw([5 ^ 1]), draw([5 ^ (1 << 32)]), draw([5 ^ (1 << 63)]), draw([5], canvas=1),
        draw([5], steps=range(2, 4)), draw([5], stream=Stream.INITIAL_TOKEN),
    ]  # fmt: skip
    for other in others:
        # Two of 128 words of 32 bits agree by chance once in 2**24 such pairs of tensors.
        assert (base == other).sum() == 0


def test_low_and_high_half_are_not_interchangeable() -> None:
    assert not torch.equal(draw([3 << 32 | 9]), draw([9 << 32 | 3]))


def test_a_rows_words_do_not_depend_on_its_batch_mates() -> None:
    seeds = [0, 17, SEED_LIMIT - 1]
    together = draw(seeds)
    for row, seed in enumerate(seeds):
        assert torch.equal(together[row : row + 1], draw([seed]))


def test_a_longer_canvas_begins_with_the_shorter_one() -> None:
    assert torch.equal(draw([4], length=64)[..., :9], draw([4], length=9))


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum().double() / len(counts)
    return float((counts - expected).square().sum() / expected)


@pytest.mark.parametrize("vocab_size", [1, 2, 97, 2560, 262_144])
def test_tokens_are_in_range_and_uniform(vocab_size: int) -> None:
    tokens = to_token(draw([1], steps=range(100), length=1000).flatten(), vocab_size)
    assert tokens.min() >= 0
    assert tokens.max() < vocab_size
    cells = min(vocab_size, 97)
    counts = torch.bincount(tokens * cells // vocab_size, minlength=cells)
    # Mean cells - 1, deviation sqrt(2 (cells - 1)): six deviations.
    assert chi_square(counts) < cells - 1 + 6 * (2 * cells) ** 0.5 + 1e-9


def test_the_ends_of_the_token_range_are_reached() -> None:
    ends = torch.tensor([0, 0xFFFFFFFF])
    assert to_token(ends, 262_144).tolist() == [0, 262_143]
    assert to_token(ends, 3).tolist() == [0, 2]


def test_uniforms_are_in_the_half_open_interval() -> None:
    ends = to_uniform(torch.tensor([0, 0xFF, 0x100, 0xFFFFFFFF]))
    assert ends.dtype == torch.float32
    assert ends.tolist() == [0.0, 0.0, 2.0**-24, 1.0 - 2.0**-24]
    uniforms = to_uniform(draw([2], steps=range(100), length=1000).flatten())
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    counts = torch.bincount((uniforms * 64).long(), minlength=64)
    assert chi_square(counts) < 63 + 6 * (2 * 64) ** 0.5

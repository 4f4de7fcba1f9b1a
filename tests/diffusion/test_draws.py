"""Sampling by inversion, and seeded draws that are the same in whatever order they are made."""

import random

import pytest
import torch

from gesso.diffusion.draws import SeededDraws, invert_cumulative

CPU = torch.device("cpu")
BELOW_ONE = 1.0 - 2.0**-24


def uniform(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_the_first_id_whose_sum_passes_the_uniform() -> None:
    probabilities = torch.tensor([0.25, 0.5, 0.25])
    for u, expected in ((0.0, 0), (0.2, 0), (0.25, 1), (0.7, 1), (0.75, 2), (BELOW_ONE, 2)):
        assert int(invert_cumulative(probabilities[None], uniform(u))) == expected


@pytest.mark.parametrize("u", [0.0, 0.5, BELOW_ONE])
def test_an_id_of_probability_zero_is_never_chosen(u: float) -> None:
    probabilities = torch.tensor([[0.0, 0.0, 0.3, 0.0, 0.7, 0.0, 0.0]])
    assert int(invert_cumulative(probabilities, uniform(u))) in (2, 4)


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("u", [0.0, 0.3, BELOW_ONE])
def test_one_hot(place: int, u: float) -> None:
    probabilities = torch.zeros(1, 7)
    probabilities[0, place] = 1
    assert int(invert_cumulative(probabilities, uniform(u))) == place


@pytest.mark.parametrize("scale", [0.999, 1.0, 1.001, 1e-3, 1e3])
def test_a_sum_that_is_not_one(scale: float) -> None:
    """Rounding of the softmax leaves no gap at the end of the list, and takes nothing from it."""
    probabilities = torch.full((1, 1000), scale / 1000)
    assert int(invert_cumulative(probabilities, uniform(BELOW_ONE))) == 999
    assert int(invert_cumulative(probabilities, uniform(0.0))) == 0
    assert abs(int(invert_cumulative(probabilities, uniform(0.5))) - 500) <= 1


def test_ids_behind_a_sum_that_no_longer_grows() -> None:
    """Probabilities below the sum's last bit: the last id that raised it is the last to be had."""
    probabilities = torch.tensor([[1.0, 1e-9, 1e-9, 0.0]])
    assert int(invert_cumulative(probabilities, uniform(BELOW_ONE))) == 0


def test_random_rows_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(40, 30, generator=generator)
    logits[torch.rand(40, 30, generator=generator) < 0.5] = -torch.inf
    logits[:, 7] = 0
    probabilities = logits.softmax(-1)
    uniforms = torch.rand(40, generator=generator)
    got = invert_cumulative(probabilities, uniforms)
    for row, (p, u) in enumerate(zip(probabilities.double(), uniforms.double(), strict=True)):
        target, total, chosen = float(u * p.sum()), 0.0, None
        for token, value in enumerate(p.tolist()):
            total += value
            if total > target and value > 0:
                chosen = token
                break
        assert int(got[row]) == chosen
        assert p[int(got[row])] > 0


def test_statistics() -> None:
    weights = torch.tensor([0.05, 0.0, 0.15, 0.5, 0.3])
    draws = SeededDraws([3], length=20_000, vocab_size=5, device=CPU)
    tokens = draws.sample(weights.expand(1, 20_000, 5), canvas=0, step=0)
    shares = torch.bincount(tokens.flatten(), minlength=5) / 20_000
    assert shares[1] == 0
    # Deviation of a share at most 0.0036: five of them.
    torch.testing.assert_close(shares, weights, rtol=0, atol=0.018)


def make(seeds: list[int] = [8, 9]) -> SeededDraws:  # noqa: B006
    return SeededDraws(seeds, length=6, vocab_size=50, device=CPU)


PROBABILITIES = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(1)).softmax(-1)
# Both sides of the borders up to which words are drawn ahead.
CALLS = [(canvas, step) for canvas in (0, 1, 5) for step in (0, 1, 14, 15, 16, 17, 31, 32, 47)]


def call(draws: SeededDraws, canvas: int, step: int) -> list[list[int]]:
    sample = draws.sample(PROBABILITIES[: len(draws.initial(0))], canvas=canvas, step=step)
    tensors = draws.initial(canvas), sample, draws.renoise(canvas=canvas, step=step)
    return [t.tolist() for t in tensors]


def test_drawing_ahead_gives_what_drawing_singly_gives() -> None:
    """One object in order, one in a wild order, and a fresh one each time."""
    singly = {key: call(make(), *key) for key in CALLS}
    ahead = make()
    assert {key: call(ahead, *key) for key in CALLS} == singly
    shuffled = CALLS * 2
    random.Random(0).shuffle(shuffled)
    for key in shuffled:
        assert call(ahead, *key) == singly[key]
    assert len({str(value) for value in singly.values()}) == len(CALLS)


def test_selected_rows_keep_their_draws() -> None:
    whole = make([8, 9])
    first = call(whole, 1, 3)
    for row in (0, 1):
        alone = whole.select(torch.tensor([row]))
        assert torch.equal(alone.initial(1)[0], torch.tensor(first[0][row]))
        assert alone.renoise(canvas=1, step=3).tolist()[0] == first[2][row]
    swapped = whole.select(torch.tensor([1, 0]))
    assert swapped.renoise(canvas=1, step=3).tolist() == first[2][::-1]
    assert call(whole, 1, 3) == first
    assert torch.equal(make([9]).initial(0), make([8, 9]).initial(0)[1:])


def test_the_three_streams_are_independent() -> None:
    """Initial tokens, renoise tokens and uniforms of the same step share no words."""
    draws = SeededDraws([0], length=64, vocab_size=1 << 24, device=CPU)
    initial, renoise = draws.initial(0), draws.renoise(canvas=0, step=0)
    # Over a flat distribution of 2**24 ids the sampled id is the uniform itself.
    assert not (initial == renoise).any()
    flat = torch.full((1, 64, 4096), 1 / 4096)
    sampled = draws.sample(flat, canvas=0, step=0)
    assert ((renoise >> 12) == sampled).sum() < 5
    assert ((initial >> 12) == sampled).sum() < 5

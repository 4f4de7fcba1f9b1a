"""Acceptance against a naive loop, and what logits are read as, against float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.diffusion.sampler import EntropyBound, believe

# Quarters add up without rounding, so that "at the bound" is exact.
quarters = st.integers(0, 12).map(lambda n: n / 4)


def naive(entropy: list[float], bound: float) -> list[bool]:
    """Walk from the surest position on while what came before stays within the bound."""
    order = sorted(range(len(entropy)), key=lambda i: (entropy[i], i))
    accepted, before = [False] * len(entropy), 0.0
    for place in order:
        if before > bound:
            break
        accepted[place] = True
        before += entropy[place]
    return accepted


@given(entropy=st.lists(quarters, min_size=1, max_size=12), bound=quarters)
@settings(deadline=None, max_examples=150)
def test_the_longest_prefix_of_low_entropies(entropy: list[float], bound: float) -> None:
    accepted = EntropyBound(bound=bound)(torch.tensor([entropy]))[0].tolist()
    assert accepted == naive(entropy, bound)
    assert any(accepted)


@given(entropy=st.lists(st.floats(0, 12, width=32), min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_the_surest_is_always_accepted(entropy: list[float]) -> None:
    """However small the bound, and whatever the rounding."""
    accepted = EntropyBound(bound=1e-30)(torch.tensor([entropy]))[0].tolist()
    assert accepted[entropy.index(min(entropy))]


def test_the_bound_is_inclusive_and_ones_own_entropy_is_not_counted() -> None:
    entropy = torch.tensor([[0.5, 0.25, 8.0, 9.0]])
    assert EntropyBound(bound=0.75)(entropy)[0].tolist() == [True, True, True, False]
    assert EntropyBound(bound=0.749)(entropy)[0].tolist() == [True, True, False, False]


def test_rows_are_apart() -> None:
    rows = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 3.0, 2.0]])
    together = EntropyBound(bound=1.5)(rows)
    assert together.tolist() == [naive(row, 1.5) for row in rows.tolist()]
    assert together.tolist() == [[False, True, True], [True] * 3, [True, False, True]]


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 75.0])
def test_belief_against_float64(scale: float) -> None:
    logits = scale * torch.randn(2, 5, 300, generator=torch.Generator().manual_seed(0))
    belief = believe(logits)
    exact = logits.double().softmax(-1)
    entropy = -torch.special.xlogy(exact, exact).sum(-1)
    # Log-probabilities up to 400 are known to 3e-5 of a nat; their share of the mass is small.
    torch.testing.assert_close(belief.probabilities.double(), exact, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(belief.entropy.double(), entropy, rtol=1e-5, atol=1e-5)
    assert torch.equal(belief.argmax, logits.argmax(-1))
    assert belief.entropy.dtype == torch.float32


def test_flat_and_certain() -> None:
    flat = believe(torch.zeros(1, 1, 1000))
    assert float(flat.entropy) == pytest.approx(math.log(1000), rel=1e-6)
    certain = torch.zeros(1, 1, 1000)
    certain[..., 3] = 150  # softcap 30 over the lowest temperature that is usual, both signs
    belief = believe(certain)
    assert float(belief.entropy) == 0
    assert belief.probabilities[0, 0, 3] == 1
    assert not belief.entropy.isnan().any()

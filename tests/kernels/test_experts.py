"""Both paths of the expert product against a loop over tokens in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gesso.kernels.experts as module
from gesso.kernels.experts import LowRank, experts

# (tokens, k, experts, M, F): one token, k = 1, k = E, more experts than pairs, odd counts.
SHAPES = [
    (1, 1, 2, 8, 8),
    (7, 3, 5, 12, 20),
    (33, 2, 3, 16, 4),
    (5, 4, 4, 24, 8),
    (3, 2, 40, 8, 16),
]


@pytest.fixture(params=["padded", "grouped"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "padded":
        monkeypatch.setattr(module, "_can_group", lambda *_: False)
    return request.param


def naive(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    inner = down.shape[2]
    rows = []
    for token in range(len(x)):
        row = torch.zeros_like(x[token])
        for expert, share in zip(index[token].tolist(), weight[token], strict=True):
            gate, up = gate_up[expert, :inner] @ x[token], gate_up[expert, inner:] @ x[token]
            row = row + share * (down[expert] @ (F.gelu(gate, approximate="tanh") * up))
        rows.append(row)
    return torch.stack(rows)


def draw(
    tokens: int, k: int, count: int, width: int, inner: int, *, seed: int = 0
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """x, index, and the rest of the arguments, in float32."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, deviation: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * deviation

    index = torch.stack([torch.randperm(count, generator=generator)[:k] for _ in range(tokens)])
    weights = [
        normal(tokens, k),
        normal(count, 2 * inner, width, deviation=width**-0.5),
        normal(count, width, inner, deviation=inner**-0.5),
    ]
    return normal(tokens, width), index, weights


def error(ours: Tensor, exact: Tensor) -> float:
    """Root-mean-square error over root-mean-square value."""
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_a_loop_over_tokens(shape: tuple[int, ...], path: str) -> None:
    x, index, rest = draw(*shape)
    exact = naive(x.double(), index, *(t.double() for t in rest))
    # Sums of at most 24 products, each rounded to 6e-8.
    assert error(experts(x, index, *rest), exact) < 1e-6


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_gradients(shape: tuple[int, ...]) -> None:
    """Groups are filled up there, and what lies behind the last one is not read."""
    x, index, rest = draw(*shape)
    exact = naive(x.double(), index, *(t.double() for t in rest))
    with torch.no_grad():
        assert error(experts(x, index, *rest), exact) < 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(shape: tuple[int, ...], path: str) -> None:
    x, index, rest = draw(*shape)
    leaves = [t.clone().requires_grad_() for t in (x, *rest)]
    experts(leaves[0], index, *leaves[1:]).square().sum().backward()
    exact = [t.double().requires_grad_() for t in (x, *rest)]
    naive(exact[0], index, *exact[1:]).square().sum().backward()
    for ours, theirs in zip(leaves, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert error(ours.grad, theirs.grad) < 2e-6


@pytest.mark.usefixtures("poisoned_memory")
def test_gradients_read_nothing_before_it_is_written(path: str) -> None:
    """Rows that only fill up a group would bring NaN into the weights' gradients."""
    x, index, rest = draw(7, 3, 5, 12, 20)
    leaves = [t.requires_grad_() for t in (x, *rest)]
    experts(leaves[0], index, *leaves[1:]).square().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in leaves)


@pytest.mark.parametrize("k", [1, 2])
def test_skewed_routing(k: int, path: str) -> None:
    """All tokens to the same experts, the others empty; then all but one token."""
    x, index, rest = draw(50, k, 7, 8, 12)
    index[:] = torch.tensor([6, 2])[:k]
    exact = naive(x.double(), index, *(t.double() for t in rest))
    assert error(experts(x, index, *rest), exact) < 1e-6
    index[17, 0] = 0
    exact = naive(x.double(), index, *(t.double() for t in rest))
    assert error(experts(x, index, *rest), exact) < 1e-6


def test_bfloat16(path: str) -> None:
    """Not worse than twice the loop in the same dtype."""
    x, index, (weight, *matrices) = draw(40, 3, 6, 64, 32)
    small = [x.bfloat16(), *(t.bfloat16() for t in matrices)]
    exact = naive(small[0].double(), index, weight.double(), *(t.double() for t in small[1:]))
    plain = naive(small[0], index, weight.bfloat16(), *small[1:])
    ours = experts(small[0], index, weight, *small[1:])
    assert ours.dtype == torch.bfloat16
    assert error(ours, exact) <= 2 * error(plain, exact)


def test_the_choice_of_path_does_not_show() -> None:
    """As dispatched: even routing, and many tokens on one of many experts."""
    for count, tokens in ((4, 64), (64, 64)):
        x, index, rest = draw(tokens, 1, count, 8, 8)
        if count == 64:
            index[:] = 5
        exact = naive(x.double(), index, *(t.double() for t in rest))
        assert error(experts(x, index, *rest), exact) < 1e-6


@pytest.mark.parametrize(("width", "inner"), [(5, 3), (6, 8), (8, 6)])
@pytest.mark.parametrize("skewed", [False, True])
def test_widths_that_are_not_a_multiple_of_16_bytes(width: int, inner: int, skewed: bool) -> None:
    """The grouped product refuses such rows; the public function does not."""
    x, index, rest = draw(60, 1, 60, width, inner)
    if skewed:
        index[:] = 3
    exact = naive(x.double(), index, *(t.double() for t in rest))
    assert error(experts(x, index, *rest), exact) < 1e-6


@pytest.mark.parametrize("shape", [(12, 2, 4, 16, 8), (200, 2, 4, 192, 128), (64, 2, 8, 192, 128)])
def test_a_row_keeps_its_bits_whatever_shares_its_experts(shape: tuple[int, ...]) -> None:
    x, index, rest = draw(*shape)
    with torch.no_grad():
        together = experts(x, index, *rest)
        for first, count in ((0, 1), (3, 5), (1, 10)):
            some = slice(first, first + count)
            alone = experts(x[some], index[some], rest[0][some], *rest[1:])
            assert torch.equal(together[some], alone)


@pytest.mark.parametrize("tokens", [3, 700])
def test_a_low_rank_change_is_that_of_the_weights(tokens: int) -> None:
    """For few tokens and for many."""
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    count, hidden, inner, rank = 4, 16, 8, 4
    x, gate_up, down = (
        random(tokens, hidden),
        random(count, 2 * inner, hidden),
        random(count, hidden, inner),
    )
    scores = random(tokens, count).softmax(-1)
    weight, index = scores.topk(2)
    change = LowRank(
        random(count, rank, hidden), random(count, 2 * inner, rank),
        random(count, rank, inner), random(count, hidden, rank), 0.3,
    )  # fmt: skip
    merged = (
        gate_up + 0.3 * change.gate_up_b @ change.gate_up_a,
        down + 0.3 * change.down_b @ change.down_a,
    )
    expected = experts(x.double(), index, weight, *(w.double() for w in merged))
    given = experts(x, index, weight, gate_up, down, change)
    torch.testing.assert_close(given.double(), expected, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        filled_up = experts(x, index, weight, gate_up, down, change)
    torch.testing.assert_close(filled_up.double(), expected, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(given, experts(x, index, weight, gate_up, down), atol=0.1)

"""The chunked loss against its definition: value, hits and gradients."""

import pytest
import torch
from torch import Tensor

from gesso.kernels import cross_entropy as module
from gesso.kernels.cross_entropy import Offset, cross_entropy, cross_entropy_reference

M, V, CAP = 7, 19, 5.0


def draw(rows: int, dtype: torch.dtype, *, offset: bool, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    hidden = 2 * torch.randn(rows, M, generator=generator)
    head = torch.randn(V, M, generator=generator)
    target = torch.randint(V, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator).to(torch.promote_types(dtype, torch.float32))
    raised = None
    if offset:
        observed = torch.randint(V, (rows,), generator=generator)
        observed[0] = target[0]
        raised = Offset(observed, 3 * torch.rand(rows, generator=generator).to(weight.dtype))
    return hidden.to(dtype), head.to(dtype), target, weight, raised


def naive(hidden: Tensor, head: Tensor, target, weight, offset) -> Tensor:
    total = torch.zeros((), dtype=hidden.dtype)
    for row in range(len(hidden)):
        z = CAP * torch.tanh(head @ hidden[row] / CAP)
        if offset is not None:
            raised = torch.zeros_like(z)
            raised[offset.observed[row]] = offset.amount[row]
            z = z + raised
        total = total + weight[row] * (torch.log(z.exp().sum()) - z[target[row]])
    return total


def run(function, hidden: Tensor, head: Tensor, *rest) -> tuple[Tensor, Tensor, Tensor]:
    leaves = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    out = function(*leaves, *rest)
    loss = out[0] if isinstance(out, tuple) else out
    (3 * loss).backward()  # a gradient from above that is not 1
    assert all(leaf.grad is not None and leaf.grad.dtype == hidden.dtype for leaf in leaves)
    return loss.detach(), leaves[0].grad, leaves[1].grad


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("function", [cross_entropy, cross_entropy_reference])
def test_float64_against_a_loop(function, offset: bool) -> None:
    hidden, head, target, weight, raised = draw(6, torch.float64, offset=offset)
    ours = run(lambda h, e: function(h, e, target, weight, CAP, raised), hidden, head)
    exact = run(lambda h, e: naive(h, e, target, weight, raised), hidden, head)
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("offset", [False, True])
def test_chunk_borders(monkeypatch: pytest.MonkeyPatch, rows: int, offset: bool) -> None:
    """Chunks of four rows; the last one full, short, or the only one."""
    hidden, head, target, weight, raised = draw(rows, torch.float32, offset=offset)
    rest = target, weight, CAP, raised
    exact = run(cross_entropy_reference, hidden, head, *rest)
    hits = cross_entropy_reference(hidden, head, *rest)[1]
    for chunk in (4 * V, 4 * V + V - 1, 1):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        ours = run(cross_entropy, hidden, head, *rest)
        assert torch.equal(cross_entropy(hidden, head, *rest)[1], hits)
        for mine, theirs in zip(ours, exact, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-6)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@pytest.mark.parametrize("offset", [False, True])
def test_bfloat16_is_at_most_twice_as_far_off_as_the_plain_operators(offset: bool) -> None:
    hidden, head, target, weight, raised = draw(256, torch.bfloat16, offset=offset)
    rest = target, weight, CAP, raised
    exact = run(cross_entropy_reference, hidden.float(), head.float(), *rest)
    plain = run(cross_entropy_reference, hidden, head, *rest)
    ours = run(cross_entropy, hidden, head, *rest)
    for mine, theirs, true in zip(ours, plain, exact, strict=True):
        # The loss is one number, whose error may be lucky: a hundredth of a bfloat16 step beside.
        assert rms(mine - true) <= 2 * rms(theirs - true) + 4e-5 * rms(true)


def test_hits_count_the_offset() -> None:
    hidden, head = torch.zeros(2, M), torch.randn(V, M)
    observed = torch.tensor([4, 5])
    offset = Offset(observed, torch.ones(2))
    target = torch.tensor([4, 6])
    hits = cross_entropy(hidden, head, target, torch.ones(2), CAP, offset)[1]
    assert hits.tolist() == [True, False]


def test_without_gradients_nothing_is_kept() -> None:
    hidden, head, target, weight, _ = draw(5, torch.float32, offset=False)
    loss, _ = cross_entropy(hidden, head, target, weight, CAP)
    assert not loss.requires_grad
    expected, _ = cross_entropy_reference(hidden, head, target, weight, CAP)
    torch.testing.assert_close(loss, expected)


def test_a_gradient_for_one_of_the_two_alone() -> None:
    hidden, head, target, weight, _ = draw(5, torch.float32, offset=False)
    both = run(cross_entropy, hidden, head, target, weight, CAP)
    for place in (0, 1):
        leaves = [hidden.clone(), head.clone()]
        leaves[place].requires_grad_()
        loss, _ = cross_entropy(*leaves, target, weight, CAP)
        kept = [t.shape for t in loss.grad_fn.saved_tensors if t is not None]
        assert kept == [leaves[place].shape]
        (3 * loss).backward()
        assert torch.equal(leaves[place].grad, both[1 + place])
        assert leaves[1 - place].grad is None


@pytest.mark.usefixtures("poisoned_memory")
def test_uninitialised_memory_is_not_read() -> None:
    hidden, head, target, weight, raised = draw(9, torch.float32, offset=True)
    for tensor in run(cross_entropy, hidden, head, target, weight, CAP, raised):
        assert not tensor.isnan().any()

import pytest
import torch

from gesso.kernels.norm import rms_norm, rms_norm_reference

EPS = 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 33), (4, 1, 2, 256)], ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_against_float64(shape: tuple[int, ...], weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 3
    weight = torch.randn(shape[-1], generator=generator) if weighted else None
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + EPS).sqrt()
    if weight is not None:
        exact = exact * weight.double()
    # Three roundings of 6e-8 on values of a few units.
    torch.testing.assert_close(rms_norm(x, weight, EPS).double(), exact, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        ours = rms_norm(x, weight, EPS)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)


def test_bfloat16_is_computed_in_float32_and_rounded_once() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(9, 31, generator=generator).bfloat16()
    weight = torch.randn(31, generator=generator).bfloat16()
    ours = rms_norm(x, weight, EPS)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, rms_norm(x.float(), weight.float(), EPS).bfloat16())


def test_the_weight_multiplies_as_it_stands() -> None:
    """Not 1 + weight: a zero weight gives zero."""
    assert rms_norm(torch.ones(2, 4), torch.zeros(4), EPS).eq(0).all()


def test_eps_is_inside_the_mean() -> None:
    tiny = torch.full((1, 4), 1e-3)  # mean square = eps
    torch.testing.assert_close(rms_norm(tiny, None, EPS), torch.full((1, 4), 0.5**0.5))


def test_zeros_stay_zeros() -> None:
    assert rms_norm(torch.zeros(2, 8), None, EPS).eq(0).all()


def test_gradient() -> None:
    x = torch.randn(3, 5, dtype=torch.float32, generator=torch.Generator().manual_seed(2))
    weight = torch.linspace(-1, 2, 5)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    rms_norm(leaves[0], leaves[1], EPS).pow(3).sum().backward()
    exact = [x.double().requires_grad_(), weight.double().requires_grad_()]
    y = exact[1] * exact[0] / (exact[0].square().mean(-1, keepdim=True) + EPS).sqrt()
    y.pow(3).sum().backward()
    for ours, theirs in zip(leaves, exact, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_written_out_backward_pass_is_the_derived_one(
    dtype: torch.dtype, weighted: bool
) -> None:
    """Over leading dimensions of all kinds, an input that is a view, and rows of zeros."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 3, 10, generator=generator).transpose(1, 2)[..., 1:9].to(dtype)
    x[0, 0, 0] = 0
    weight = torch.randn(8, generator=generator).to(dtype) if weighted else None
    above = torch.randn(2, 3, 4, 8, generator=generator).to(dtype)
    grads = []
    for function in (rms_norm, rms_norm_reference):
        leaves = [t.clone().requires_grad_() for t in (x, weight) if t is not None]
        # A larger eps: with the usual one a row of zeros has gradients of a thousand.
        y = function(leaves[0], leaves[1] if weighted else None, 1e-2)
        assert y.dtype == dtype
        (y * above).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    # Rounded once in bfloat16, from float32 values that differ in their last bits.
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 1e-2}[dtype]
    for ours, derived in zip(*grads, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, derived, rtol=tolerance, atol=3 * tolerance)


def test_a_second_path_without_gradients_gives_the_same_bits() -> None:
    x, weight = torch.randn(3, 16), torch.randn(16)
    with torch.no_grad():
        plain = rms_norm(x, weight, EPS)
    assert torch.equal(plain, rms_norm(x, weight, EPS))

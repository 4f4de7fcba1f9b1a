import pytest
import torch
from torch import Tensor

from gesso.kernels.gpu.norm import enter_feed_forward, leave_feed_forward, rms_norm
from gesso.kernels.norm import rms_norm_reference

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
SIZES = [32, 33, 100, 2816]


def draw(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) + 0.3).to(device, dtype)


def off(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def check(ours: Tensor, plain: Tensor, exact: Tensor) -> None:
    """At most twice the plain operators' error; in float32 an order of summing may be unlucky."""
    assert ours.dtype == plain.dtype
    assert ours.shape == plain.shape
    assert off(ours, exact) <= max(2 * off(plain, exact), 3e-7)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.usefixtures("poisoned_memory")
def test_rms_norm(size: int, dtype: torch.dtype, weighted: bool, device: torch.device) -> None:
    x = draw(2, 3, size, dtype=dtype, device=device)
    weight = draw(size, dtype=dtype, device=device, seed=1) if weighted else None
    exact = rms_norm_reference(x.double(), None if weight is None else weight.double(), EPS)
    check(rms_norm(x, weight, EPS), rms_norm_reference(x, weight, EPS), exact)


def test_rows_of_a_wider_tensor(device: torch.device) -> None:
    """As parts of one product are."""
    wide = draw(5, 40, dtype=torch.float32, device=device)
    assert torch.equal(rms_norm(wide[:, :24], None, EPS), rms_norm(wide[:, :24].clone(), None, EPS))


def test_zeros_stay_zeros(device: torch.device) -> None:
    assert rms_norm(torch.zeros(2, 8, device=device), None, EPS).eq(0).all()


def entered(x: Tensor, attended: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    """The layer's own operators, one after the other."""
    post, mlp, moe, router = weights
    x = x + rms_norm_reference(attended, post, EPS)
    scaled = rms_norm_reference(x, None, EPS) * router * x.shape[-1] ** -0.5
    return x, rms_norm_reference(x, mlp, EPS), rms_norm_reference(x, moe, EPS), scaled


def left(
    x: Tensor, dense: Tensor, sparse: Tensor, weights: list[Tensor], scalar: Tensor
) -> tuple[Tensor, Tensor]:
    post_mlp, post_moe, post, following = weights
    both = rms_norm_reference(dense, post_mlp, EPS) + rms_norm_reference(sparse, post_moe, EPS)
    x = (x + rms_norm_reference(both, post, EPS)) * scalar
    return x, rms_norm_reference(x, following, EPS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_enter_feed_forward(size: int, dtype: torch.dtype, device: torch.device) -> None:
    x, attended = draw(2, 2, 3, size, dtype=dtype, device=device)
    weights = list(draw(4, size, dtype=dtype, device=device, seed=1))
    plain = entered(x, attended, weights)
    exact = entered(x.double(), attended.double(), [w.double() for w in weights])
    post, mlp, moe, router = weights
    ours = enter_feed_forward(
        x, attended, post_attention=post, mlp=mlp, moe=moe, router=router, eps=EPS
    )
    for mine, theirs, true in zip(ours, plain, exact, strict=True):
        check(mine, theirs, true)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_leave_feed_forward(size: int, dtype: torch.dtype, device: torch.device) -> None:
    x, dense, sparse = draw(3, 2, 3, size, dtype=dtype, device=device)
    weights = list(draw(4, size, dtype=dtype, device=device, seed=1))
    scalar = torch.tensor([0.7], dtype=dtype, device=device)
    plain = left(x, dense, sparse, weights, scalar)
    exact = left(
        x.double(), dense.double(), sparse.double(), [w.double() for w in weights], scalar.double()
    )
    post_mlp, post_moe, post, following = weights
    kept = dict(post_mlp=post_mlp, post_moe=post_moe, post=post, scalar=scalar, eps=EPS)
    ours = leave_feed_forward(x, dense, sparse, next_norm=following, **kept)
    assert ours.normed is not None
    check(ours.x, plain[0], exact[0])
    check(ours.normed, plain[1], exact[1])
    last = leave_feed_forward(x, dense, sparse, next_norm=None, **kept)
    assert last.normed is None
    assert torch.equal(last.x, ours.x)

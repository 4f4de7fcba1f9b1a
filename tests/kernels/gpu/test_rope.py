import pytest
import torch
from torch import Tensor

from gesso.config import RopeConfig
from gesso.kernels.gpu.rope import turn_heads
from gesso.kernels.norm import rms_norm_reference
from gesso.kernels.rope import Rotation, inverse_frequencies, rotate, rotation

EPS = 1e-6
# (B, n, H, K, D): odd halves, odd numbers of heads, the 26B's two kinds of layer.
SHAPES = [(2, 3, 4, 2, 8), (1, 5, 3, 1, 14), (2, 1, 16, 8, 256), (1, 2, 16, 2, 512)]


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    batch, new, heads, groups, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))
    # The three are parts of one product's rows.
    wide = torch.randn(batch, new, heads + 2 * groups, dim, generator=generator)
    weights = 0.5 + torch.rand(2, dim, generator=generator)
    parts = wide.to(device, dtype).split((heads, groups, groups), dim=2)
    named = dict(zip(("raw_q", "raw_k", "raw_v"), parts, strict=True))
    return named | dict(zip(("q_weight", "k_weight"), weights.to(device, dtype), strict=True))


def angles(positions: Tensor, dim: int, dtype: torch.dtype) -> Rotation:
    rope = RopeConfig(theta=1e4, partial=0.5, scaling=1.0)
    return rotation(positions, inverse_frequencies(rope, dim, positions.device), dtype)


def expected(
    raw_q: Tensor, raw_k: Tensor, raw_v: Tensor, q_weight: Tensor, k_weight: Tensor, turn: Rotation
) -> tuple[Tensor, ...]:
    """The layer's own operators, one after the other."""
    query = rotate(rms_norm_reference(raw_q, q_weight, EPS), turn)
    key = rotate(rms_norm_reference(raw_k, k_weight, EPS), turn)
    return tuple(t.transpose(1, 2) for t in (query, key, rms_norm_reference(raw_v, None, EPS)))


def off(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shared", [True, False], ids=["values of keys", "own values"])
@pytest.mark.usefixtures("poisoned_memory")
def test_against_float64(
    shape: tuple[int, ...], dtype: torch.dtype, shared: bool, device: torch.device
) -> None:
    batch, new, _, _, dim = shape
    drawn = draw(shape, dtype, device)
    if shared:
        drawn["raw_v"] = drawn["raw_k"]
    # Each row at positions of its own.
    positions = (
        torch.arange(new, device=device) + torch.arange(3, 3 + batch, device=device)[:, None]
    )
    turn = angles(positions, dim, dtype)
    plain = expected(**drawn, turn=turn)
    wide = {name: t.double() for name, t in drawn.items()}
    exact = expected(**wide, turn=Rotation(turn.cos.double(), turn.sin.double()))
    ours = turn_heads(
        drawn["raw_q"], drawn["raw_k"], None if shared else drawn["raw_v"],
        q_weight=drawn["q_weight"], k_weight=drawn["k_weight"], turn=turn, eps=EPS,
    )  # fmt: skip
    for mine, theirs, true in zip(ours, plain, exact, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == theirs.shape
        assert off(mine, true) <= max(2 * off(theirs, true), 3e-7)

import pytest
import torch
from torch import Tensor

from gesso.kernels.gpu.router import route
from gesso.kernels.router import choose_experts

# (T, M, E, k): one token, all experts chosen, sizes that are no power of two, the 26B's width.
SHAPES = [(1, 32, 6, 2), (5, 33, 6, 6), (19, 100, 10, 3), (18, 192, 7, 1), (3, 2816, 128, 8)]


def draw(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, hidden, experts, _ = shape
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(tokens, hidden, generator=generator) * hidden**-0.5
    proj = torch.randn(experts, hidden, generator=generator)
    scale = 0.5 + torch.rand(experts, generator=generator)
    return tuple(t.to(device, dtype) for t in (x, proj, scale))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_against_float64(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    x, proj, scale = draw(shape, dtype, device)
    k = shape[3]
    logits = x.double() @ proj.double().T
    # The draw keeps logits further apart than any order of summing moves them (1e-6), so that
    # there is one right choice.
    assert logits.sort(1).values.diff(dim=1).min() > 3e-6
    index, weight = choose_experts(logits, scale.double(), k)
    ours = route(x, proj, scale, k=k)
    assert torch.equal(ours.expert, index)
    assert ours.weight.dtype == torch.float32
    torch.testing.assert_close(ours.weight.double(), weight, rtol=1e-5, atol=0)


def test_of_equal_logits_the_lower_expert_comes_first(device: torch.device) -> None:
    x = torch.ones(2, 4, device=device)
    proj = torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0, 2.0], device=device)[:, None].expand(6, 4)
    ours = route(x, proj.contiguous(), torch.ones(6, device=device), k=4)
    assert ours.expert.tolist() == [[2, 5, 1, 3]] * 2


def test_far_apart_logits_give_no_nan(device: torch.device) -> None:
    x = torch.ones(1, 1, device=device)
    proj = torch.tensor([[300.0], [-300.0], [0.0]], device=device)
    ours = route(x, proj, torch.ones(3, device=device), k=3)
    assert ours.weight.tolist() == [[1.0, 0.0, 0.0]]

import pytest
import torch

from gesso.kernels.geglu import geglu as reference
from gesso.kernels.gpu.geglu import geglu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (5, 16), (3, 704), (2, 2112)], ids=str)
@pytest.mark.usefixtures("poisoned_memory")
def test_against_float64(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    rows, size = shape
    both = torch.randn(rows, 2 * size, generator=torch.Generator().manual_seed(0)) * 3
    gate, up = both.to(device, dtype).chunk(2, dim=1)  # halves of one product
    ours = geglu(gate, up)
    assert ours.dtype == dtype
    exact = reference(gate.double(), up.double())
    plain = reference(gate, up)
    error, bound = ((t.double() - exact).square().mean().sqrt() for t in (ours, plain))
    # In float32 the exponential's last bits: 3 roundings of 6e-8 on values of a few units.
    assert error <= max(2 * bound, 2e-7 * exact.square().mean().sqrt())


def test_far_out_it_is_the_identity_or_zero(device: torch.device) -> None:
    gate = torch.tensor([[-1e4, -60.0, 0.0, 60.0, 1e4]], device=device)
    ours = geglu(gate, torch.ones_like(gate))
    assert torch.equal(ours, torch.tensor([[0.0, 0.0, 0.0, 60.0, 1e4]], device=device))

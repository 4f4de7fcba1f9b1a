import torch

from gesso.kernels.geglu import geglu


def test_against_the_formula_in_float64() -> None:
    gate, up = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    torch.testing.assert_close(geglu(gate, up), 0.5 * gate * (1 + inner.tanh()) * up)

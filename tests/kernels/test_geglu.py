import torch

from gesso.kernels.geglu import geglu


def test_against_the_formula_in_float64() -> None:
    gate, up = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
    torch.testing.assert_close(geglu(gate, up), 0.5 * gate * (1 + inner.tanh()) * up)


def test_float32_without_gradients() -> None:
    """By way of the sigmoid; far out too, where tanh is 1 to the bit."""
    gate = torch.cat((torch.linspace(-6, 6, 97), torch.tensor([-1e4, -40.0, 40.0, 1e4])))
    up = torch.linspace(-2, 2, len(gate))
    with torch.no_grad():
        ours = geglu(gate, up)
    # A few roundings of 6e-8, of values of up to 12; the far ones are equal to gate or 0.
    torch.testing.assert_close(
        ours.double(), geglu(gate.double(), up.double()), rtol=1e-6, atol=2e-6
    )

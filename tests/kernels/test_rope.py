import pytest
import torch
from torch import Tensor

from gesso.config import RopeConfig
from gesso.kernels.rope import inverse_frequencies, rotate, rotation

CPU = torch.device("cpu")
SLIDING = RopeConfig(theta=1e4)
FULL = RopeConfig(theta=1e6, partial=0.25)


def turned(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    frequencies = inverse_frequencies(rope, x.shape[-1], CPU)
    return rotate(x, rotation(positions, frequencies, x.dtype))


def naive(x: Tensor, positions: Tensor, rope: RopeConfig) -> Tensor:
    """Pair (j, j + D/2) as one complex number, turned in float64."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    angles = torch.zeros(*positions.shape, half, dtype=torch.float64)
    for j in range(int(rope.partial * half)):
        angles[..., j] = positions / rope.theta ** (2 * j / (2 * half)) / rope.scaling
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)[:, :, None]
    return torch.cat((pairs.real, pairs.imag), dim=-1)


@pytest.mark.parametrize("rope", [SLIDING, FULL, RopeConfig(theta=100.0, scaling=8.0)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (2, 5, 3, 16), (1, 7, 2, 72)], ids=str)
def test_against_complex_numbers(rope: RopeConfig, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    positions = torch.randint(0, 500, shape[:2], generator=generator)
    # A float32 angle of 500 is known to 3e-5.
    torch.testing.assert_close(
        turned(x, positions, rope).double(), naive(x, positions, rope), rtol=0, atol=1e-4
    )


def test_frequencies_of_the_26b() -> None:
    """Full layers: 64 of 256 turn, and the exponent's denominator is 512 (trap 5)."""
    frequencies = inverse_frequencies(FULL, 512, CPU)
    assert frequencies.shape == (256,)
    assert frequencies[64:].eq(0).all()
    expected = [1e6 ** (-2 * j / 512) for j in range(64)]
    torch.testing.assert_close(frequencies[:64], torch.tensor(expected))
    sliding = inverse_frequencies(SLIDING, 256, CPU)
    torch.testing.assert_close(sliding[127], torch.tensor(1e4 ** (-254 / 256)))


def test_what_does_not_turn_passes_through() -> None:
    x = torch.randn(1, 3, 2, 32, generator=torch.Generator().manual_seed(1))
    y = turned(x, torch.tensor([[0, 9, 100]]), FULL)  # pairs 0..3 of 16 turn
    still = [*range(4, 16), *range(20, 32)]
    assert torch.equal(y[..., still], x[..., still])
    assert torch.equal(y[:, 0], x[:, 0])  # position 0
    assert not torch.equal(y[:, 1:, :, :4], x[:, 1:, :, :4])


def test_products_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    query, key = torch.randn(2, 1, 1, 1, 16, generator=generator)

    def product(at: int, distance: int) -> Tensor:
        return (
            turned(query, torch.tensor([[at + distance]]), SLIDING)
            * turned(key, torch.tensor([[at]]), SLIDING)
        ).sum()

    for distance in (0, 1, 40):
        torch.testing.assert_close(product(0, distance), product(333, distance), rtol=0, atol=1e-4)


def test_a_row_of_positions_serves_a_whole_batch() -> None:
    x = torch.randn(3, 4, 2, 8, generator=torch.Generator().manual_seed(3))
    positions = torch.arange(4)[None]
    assert torch.equal(turned(x, positions, SLIDING), turned(x, positions.expand(3, 4), SLIDING))


def test_angles_are_float32_in_bfloat16() -> None:
    """Position 1001 is not a bfloat16 number; its cosine is right to bfloat16's own rounding."""
    cos, _ = rotation(torch.tensor([[1001]]), torch.ones(1), torch.bfloat16)
    exact = torch.tensor(1001.0, dtype=torch.float64).cos()
    assert abs(cos.double().item() - exact) < 2**-9

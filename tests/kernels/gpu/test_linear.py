"""Linear maps from stored weights against the product with the weights made wide."""

import pytest
import torch

from gesso.kernels.gpu.linear import Tiles, choose_tiles, linear
from tests.kernels.gpu.test_experts import FORMATS, error, stored_and_wide


def draw(shape: tuple[int, int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, inputs, out = shape
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, inputs, generator=generator).to(device)
    weight = torch.randn(out, inputs, generator=generator) * inputs**-0.5
    return x, weight.to(device)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(5, 48, 7), (70, 272, 130), (1, 128, 64)], ids=str)
def test_in_float32(shape: tuple[int, int, int], name: str, device: torch.device) -> None:
    x, weight = draw(shape, device)
    stored, wide = stored_and_wide(weight, FORMATS[name], torch.float32)
    # Sums of 272 products, each rounded to 6e-8.
    assert error(linear(x, stored), x.double() @ wide.T) < 1e-6
    assert torch.equal(linear(x[None], stored)[0], linear(x, stored))


@pytest.mark.parametrize("name", FORMATS)
def test_in_bfloat16(name: str, device: torch.device) -> None:
    x, weight = draw((9, 160, 24), device)
    x = x.bfloat16()
    stored, wide = stored_and_wide(weight, FORMATS[name], torch.bfloat16)
    exact = x.double() @ wide.T
    ours = linear(x, stored)
    assert ours.dtype == torch.bfloat16
    assert error(ours, exact) <= 2 * error(x @ wide.bfloat16().T, exact)


@pytest.mark.parametrize("name", ["fp8", "nvfp4"])
def test_float16_is_refused_where_it_would_give_nan(name: str, device: torch.device) -> None:
    """Codes are lifted by powers of two that are infinite there."""
    x, weight = draw((2, 48, 8), device)
    stored, _ = stored_and_wide(weight, FORMATS[name], torch.float16)
    with pytest.raises(ValueError, match=f"got float16, .* weights in {name} .*; choose bfloat16"):
        linear(x.half(), stored)


def test_tiles() -> None:
    """A canvas fills the device with the smallest; larger batches take larger ones."""
    assert choose_tiles(256, 2816) == Tiles(64, 64, 4)
    assert choose_tiles(4096, 2816) == Tiles(128, 128, 8)
    for tokens, out in ((256, 4096), (1024, 2112)):
        tiles = choose_tiles(tokens, out)
        assert -(-out // tiles.rows) * -(-tokens // tiles.tokens) >= 128

"""Linear maps from stored weights against the product with the weights made wide."""

import pytest
import torch

from gesso.kernels.gpu.linear import Tiles, choose_tiles, linear, to_e4m3
from gesso.quant import FP8
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


@pytest.mark.usefixtures("poisoned_memory")
def test_tokens_in_eight_bits(device: torch.device) -> None:
    """The product of what both stand for; a token of zeros stays one."""
    x, weight = draw((6, 144, 20), device)
    x[2] = 0
    stored = FP8().quantize(weight)
    q, scale = to_e4m3(x)
    # A reciprocal's rounding may move what lies between two codes: few, and by one code.
    expected = (x / (x.abs().amax(1, keepdim=True) / 448).clamp(min=1e-30)).to(torch.float8_e4m3fn)
    assert (q.float() != expected.float()).float().mean() < 0.01
    exact = (q.double() * scale.double()[:, None]) @ FP8().dequantize(
        stored, torch.float32
    ).double().T
    # On tensor cores a step's products of e4m3 are added in 14 bits.
    assert error(linear(x, stored, round_tokens=True), exact) < (
        1e-6 if device.type == "cpu" else 1e-3
    )
    assert error(q.double() * scale.double()[:, None], x.double()) < 2**-4


def test_tiles() -> None:
    """A canvas fills the device with the smallest; larger batches take larger ones."""
    assert choose_tiles(256, 2816) == Tiles(64, 64, 4)
    assert choose_tiles(4096, 2816) == Tiles(128, 128, 8)
    for tokens, out in ((256, 4096), (1024, 2112)):
        tiles = choose_tiles(tokens, out)
        assert -(-out // tiles.rows) * -(-tokens // tiles.tokens) >= 128

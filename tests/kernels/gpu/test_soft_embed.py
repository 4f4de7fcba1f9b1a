"""The soft embedding's kernels against `Network.soft_embed`'s definition, in double precision."""

import pytest
import torch
from torch import Tensor

from gesso.kernels.gpu import soft_embed as module
from gesso.kernels.gpu.soft_embed import soft_embed

SCALE = 53.0
# Rows, ids, width: one of each; ids that leave spans empty; ids and width a little over tiles.
SHAPES = [(1, 1, 1), (5, 96, 32), (3, 768, 256), (17, 453, 259)]


def draw(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows from nearly flat to nearly certain; the sum is that of the logits as they are stored."""
    rows, ids, width = shape
    generator = torch.Generator().manual_seed(rows)
    spread = torch.linspace(0.1, 20, rows)[:, None]
    logits = (spread * torch.randn(rows, ids, generator=generator)).clamp(-75, 75).to(dtype)
    embedding = torch.randn(ids, width, generator=generator).to(dtype)
    log_sum = logits.double().logsumexp(-1).float()
    return logits.to(device), log_sum.to(device), embedding.to(device)


def definition(logits: Tensor, embedding: Tensor, dtype: torch.dtype) -> Tensor:
    """As `Network.soft_embed`, which also rounds the product before it is scaled."""
    return (logits.to(dtype).softmax(-1) @ embedding.to(dtype)) * SCALE


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32(
    shape: tuple[int, int, int], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TILE_ROWS", 16)  # so that few rows are more than a tile
    logits, log_sum, embedding = draw(shape, torch.float32, device)
    ours = soft_embed(logits, log_sum, embedding, scale=SCALE)
    exact = definition(logits, embedding, torch.float64)
    # Logits and log-sums of up to 75 are known to 4e-6, and so are the probabilities, relatively;
    # what they weight is some 53 * 3.
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=53 * 3 * 1e-5)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_is_as_good_as_the_plain_operation(
    shape: tuple[int, int, int], device: torch.device
) -> None:
    logits, log_sum, embedding = draw(shape, torch.bfloat16, device)
    ours = soft_embed(logits, log_sum, embedding, scale=SCALE)
    assert ours.dtype == torch.bfloat16
    plain = (logits.float().softmax(-1).bfloat16() @ embedding) * SCALE
    exact = definition(logits, embedding, torch.float64)
    # One value alone may be rounded by luck: half a step of bfloat16 is granted to it.
    lucky = 2.0**-9 * rms(exact) if exact.numel() == 1 else 0
    assert rms(ours - exact) <= 2 * rms(plain - exact) + lucky


def test_a_certain_row_is_its_tokens_embedding(device: torch.device) -> None:
    logits = torch.full((2, 453), -75.0, device=device)
    logits[0, 452], logits[1, 0] = 75, 75
    embedding = torch.randn(453, 5, device=device)
    log_sum = torch.full((2,), 75.0, device=device)
    ours = soft_embed(logits, log_sum, embedding, scale=2.0)
    assert torch.equal(ours, 2 * embedding[[452, 0]])


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    logits, log_sum, embedding = draw((3, 453, 5), torch.float32, device)
    together = soft_embed(logits, log_sum, embedding, scale=SCALE)
    alone = soft_embed(logits[2:], log_sum[2:], embedding, scale=SCALE)
    assert torch.equal(together[2:], alone)

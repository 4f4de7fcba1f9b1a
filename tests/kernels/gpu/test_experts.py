"""Experts from stored weights against the reference on the weights made wide, in float64."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from gesso.kernels.experts import experts as reference
from gesso.kernels.gpu.experts import experts, group
from gesso.quant import FP8, INT4, NVFP4, Format


class TwoOfNVFP4(NVFP4):
    """Two projections stacked that were rounded apart: a second-level scale for every row."""

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        halves = [NVFP4().quantize(half) for half in (weight, 8 * weight)]
        out = weight.shape[-2]
        rows = [half | dict(whole=half["whole"].expand(*weight.shape[:-1], 1)) for half in halves]
        ends = (slice(out // 2), slice(out // 2, None))
        return {
            name: torch.cat([r[name][..., end, :] for r, end in zip(rows, ends, strict=True)], -2)
            for name in rows[0]
        }


FORMATS: dict[str, Format | None] = dict(
    plain=None, fp8=FP8(), nvfp4=NVFP4(), stacked=TwoOfNVFP4(), int4=INT4()
)
# (tokens, k, experts, M, F): no size a multiple of a tile; groups of 16 inputs, 48 and 128; a
# tile of rows and a step of columns filled and gone past; one token; k = E.
SHAPES = [(7, 3, 5, 48, 16), (5, 2, 3, 144, 32), (1, 1, 2, 32, 144), (3, 4, 4, 128, 16)]


def draw(
    tokens: int, k: int, count: int, width: int, inner: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)

    def normal(*shape: int, deviation: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * deviation).to(device)

    index = torch.stack([torch.randperm(count, generator=generator)[:k] for _ in range(tokens)])
    return (
        normal(tokens, width), index.to(device), normal(tokens, k),
        normal(count, 2 * inner, width, deviation=width**-0.5),
        normal(count, width, inner, deviation=inner**-0.5),
    )  # fmt: skip


def stored_and_wide(
    weight: Tensor, form: Format | None, dtype: torch.dtype
) -> tuple[Mapping[str, Tensor] | Tensor, Tensor]:
    if form is None:
        return weight.to(dtype), weight.to(dtype).double()
    stored = form.quantize(weight)
    return stored, form.dequantize(stored, torch.float32).double()


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_float32(shape: tuple[int, ...], name: str, device: torch.device) -> None:
    x, index, weight, *matrices = draw(*shape, device)
    pairs = [stored_and_wide(t, FORMATS[name], torch.float32) for t in matrices]
    ours = experts(x, index, weight, pairs[0][0], pairs[1][0])
    exact = reference(x.double(), index, weight.double(), pairs[0][1], pairs[1][1])
    # Sums of at most 144 products, each rounded to 6e-8, and int4's weights once more.
    assert error(ours, exact) < 1e-6


@pytest.mark.parametrize("name", FORMATS)
def test_in_bfloat16(name: str, device: torch.device) -> None:
    """At most twice the error of the reference in that dtype."""
    x, index, weight, *matrices = draw(9, 2, 3, 160, 48, device)
    x, form = x.bfloat16(), FORMATS[name]
    pairs = [stored_and_wide(t, form, torch.bfloat16) for t in matrices]
    exact = reference(x.double(), index, weight.double(), pairs[0][1], pairs[1][1])
    plain = reference(x, index, weight, *(wide.bfloat16() for _, wide in pairs))
    ours = experts(x, index, weight, pairs[0][0], pairs[1][0])
    assert ours.dtype == torch.bfloat16
    assert error(ours, exact) <= 2 * error(plain, exact)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("tokens", [17, 33, 70])
def test_all_tokens_to_one_expert(tokens: int, device: torch.device) -> None:
    """Past each width of a tile, and the other experts have none."""
    x, index, weight, gate_up, down = draw(tokens, 1, 3, 16, 16, device)
    index[:] = 1
    exact = reference(x.double(), index, weight, gate_up.double(), down.double())
    assert error(experts(x, index, weight, gate_up, down), exact) < 1e-6


@pytest.mark.parametrize("name", ["plain", "nvfp4"])
def test_a_row_does_not_know_its_batch_mates(name: str, device: torch.device) -> None:
    """Alone, and among so many that tiles are wider: the same bits.

    (The interpreter's products are numpy's, whose order depends on shapes: there, up to rounding.)
    """
    x, index, weight, *matrices = draw(40, 2, 2, 144, 16, device)
    gate_up, down = (stored_and_wide(t, FORMATS[name], torch.float32)[0] for t in matrices)
    together = experts(x, index, weight, gate_up, down)[:3]
    alone = experts(x[:3], index[:3], weight[:3].contiguous(), gate_up, down)
    if device.type == "cuda":
        assert torch.equal(together, alone)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("tokens", "k", "count"), [(1, 1, 1), (40, 3, 5), (700, 2, 4)])
def test_grouping(tokens: int, k: int, count: int, device: torch.device) -> None:
    """The stable sort of the pairs, also of more than one program looks at together."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(count, (tokens, k), generator=generator).to(device)
    index[index == 2] = 0  # one that nobody chose
    order, starts = group(index, count)
    assert torch.equal(order.long(), index.flatten().argsort(stable=True))
    counts = index.flatten().bincount(minlength=count)
    assert torch.equal(starts.long(), torch.cat((counts[:0].new_zeros(1), counts.cumsum(0))))


def test_shapes_that_do_not_fit(device: torch.device) -> None:
    x, index, weight, gate_up, down = draw(2, 1, 2, 16, 8, device)
    for wrong in (
        (x[:, :8].contiguous(), index, weight, gate_up, down),
        (x, index, weight, gate_up, down[..., :4].contiguous()),
        (x, index, weight, gate_up[:1], down),
    ):
        with pytest.raises(AssertionError):
            experts(*wrong)

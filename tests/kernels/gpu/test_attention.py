from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.kernels.attention import attention, attention_reference
from gesso.kernels.gpu.canvas_attention import canvas_attention
from gesso.kernels.gpu.span_attention import causal_spans, span_attention
from gesso.model.masks import causal_mask

NAN = float("nan")
# (H, K, L, S, D): canvas of 5, odd head dims, groups of one, of an odd number, of all heads; then
# the released model's head dims, whose tiles are others: more than one tile of rows and of columns.
SHAPES = [
    *[(4, 2, 5, 37, 8), (6, 2, 7, 20, 20), (3, 1, 1, 16, 64), (1, 1, 33, 20, 16)],
    *[(2, 1, 65, 37, 256), (2, 1, 33, 37, 512)],
]
DTYPES = [torch.float32, torch.bfloat16]


def draw(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Scores have a deviation of about 1, as after norms with trained weights.
    return (torch.randn(shape, generator=generator) * shape[-1] ** -0.25).to(device, dtype)


def off(x: Tensor, exact: Tensor) -> float:
    """Root mean square of the error over that of the value."""
    return float((x.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def check(ours: Tensor, plain: Tensor, exact: Tensor) -> None:
    """At most twice the plain operator's error; in float32 two orders of sums differ by 1e-6."""
    assert ours.dtype == plain.dtype
    assert not ours.isnan().any()
    assert off(ours, exact) <= max(2 * off(plain, exact), 2e-6)


class Canvas:
    """Two rows over one cache: one that fills most of it, one shorter."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        heads, groups, canvas, room, dim = shape
        kind = dict(dtype=dtype, device=device)
        self.query = draw(2, heads, canvas, dim, **kind)
        self.keys, self.values = draw(2, 2, groups, room, dim, seed=1, **kind)
        self.canvas_keys, self.canvas_values = draw(2, 2, groups, canvas, dim, seed=2, **kind)
        self.length = torch.tensor([room - 2, 14], device=device)
        seen = torch.arange(room, device=device) < self.length[:, None]
        self.mask = F.pad(seen, (0, canvas), value=True)[:, None, None]
        self.outside = ~seen[:, None, :, None].expand_as(self.keys)

    def expected(self, function: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        keys = torch.cat((self.keys, self.canvas_keys), 2).to(dtype)
        values = torch.cat((self.values, self.canvas_values), 2).to(dtype)
        return function(self.query.to(dtype), keys, values, mask=self.mask)

    def run(self, splits: int | None = None) -> Tensor:
        return canvas_attention(
            self.query, self.keys, self.values, self.canvas_keys, self.canvas_values,
            length=self.length, splits=splits,
        )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.usefixtures("poisoned_memory")
def test_canvas(
    shape: tuple[int, ...], dtype: torch.dtype, splits: int, device: torch.device
) -> None:
    case = Canvas(shape, dtype, device)
    plain, exact = case.expected(attention, dtype), case.expected(attention_reference, torch.double)
    case.keys[case.outside] = NAN  # room that nothing was written to is not read
    case.values[case.outside] = NAN
    check(case.run(splits), plain, exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_a_cache_in_fp8_is_as_if_it_were_made_wide_first(
    dtype: torch.dtype, splits: int, device: torch.device
) -> None:
    case = Canvas((4, 2, 5, 37, 8), dtype, device)
    narrow = [t.to(torch.float8_e4m3fn) for t in (case.keys, case.values)]
    case.keys, case.values = (t.to(dtype) for t in narrow)
    wide = case.run(splits)
    case.keys, case.values = narrow
    assert torch.equal(case.run(splits), wide)


@pytest.mark.usefixtures("poisoned_memory")
def test_an_empty_cache_and_more_shares_than_tiles(device: torch.device) -> None:
    case = Canvas((4, 2, 5, 37, 8), torch.float32, device)
    case.length[:] = 0
    exact = attention_reference(
        case.query.double(), case.canvas_keys.double(), case.canvas_values.double()
    )
    for splits in (1, 4):
        assert off(case.run(splits), exact) < 2e-6


@pytest.mark.parametrize("splits", [None, 1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neither_mates_nor_room_change_a_rows_bits(
    splits: int | None, dtype: torch.dtype, device: torch.device
) -> None:
    """Room for 2,048 columns, which a long request left behind, and room for 20."""
    case = Canvas((4, 2, 5, 60, 8), dtype, device)
    case.length[1] = 18
    alone = canvas_attention(
        case.query[1:], case.keys[1:, :, :20].contiguous(), case.values[1:, :, :20].contiguous(),
        case.canvas_keys[1:], case.canvas_values[1:], splits=splits, length=case.length[1:],
    )  # fmt: skip
    for name in ("keys", "values"):
        setattr(case, name, F.pad(getattr(case, name), (0, 0, 0, 2048 - 60)))
    assert torch.equal(case.run(splits)[1], alone[0])


def test_views_of_projections_need_no_copy(device: torch.device) -> None:
    """Heads innermost but one, as products and rotation leave them."""
    case = Canvas((4, 2, 5, 37, 8), torch.float32, device)
    ours = case.run()
    for name in ("query", "canvas_keys", "canvas_values"):
        tensor = getattr(case, name)
        setattr(case, name, tensor.transpose(1, 2).contiguous().transpose(1, 2))
        assert not getattr(case, name).is_contiguous()
    assert torch.equal(case.run(), ours)


def draw_blocks(columns: int, device: torch.device) -> Tensor:
    blocks = torch.zeros(2, columns, dtype=torch.int64, device=device)
    blocks[0, 1:4] = 1
    blocks[0, 4:6] = 2  # neighbours, but not one image
    blocks[1, columns - 3 :] = 1
    return blocks


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("kept", [0, 6])
@pytest.mark.parametrize("images", [False, True])
def test_spans_are_the_causal_mask(
    window: int | None, kept: int, images: bool, device: torch.device
) -> None:
    columns = 9
    blocks = draw_blocks(columns, device) if images else None
    mask = causal_mask(
        columns=columns, kept=kept, window=window, blocks=blocks, device=device,
        padding=torch.ones(2, kept + columns, dtype=torch.bool, device=device),
    )  # fmt: skip
    assert mask is not None
    before = torch.full((2,), kept, device=device)
    spans = causal_spans(before, columns=columns, window=window, blocks=blocks)
    column = torch.arange(kept + columns, device=device)
    ours = (column >= spans.begin[..., None]) & (column < spans.end[..., None])
    assert torch.equal(ours[:, None], mask.expand(2, -1, -1, -1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("window", "splits"), [(None, 1), (None, 3), (7, 1), (7, 2)])
@pytest.mark.usefixtures("poisoned_memory")
def test_causal(
    shape: tuple[int, ...], dtype: torch.dtype, window: int | None, splits: int,
    device: torch.device,
) -> None:  # fmt: skip
    heads, groups, columns, kept, dim = shape
    query = draw(2, heads, columns, dim, dtype=dtype, device=device)
    keys, values = draw(2, 2, groups, kept + columns, dim, seed=1, dtype=dtype, device=device)
    blocks = draw_blocks(columns, device) if columns == 7 else None
    mask = causal_mask(
        columns=columns, kept=kept, window=window, blocks=blocks, device=device, padding=None
    )
    before = torch.full((2,), kept, device=device)
    spans = causal_spans(before, columns=columns, window=window, blocks=blocks)
    plain = attention(query, keys, values, mask=mask)
    exact = attention_reference(query.double(), keys.double(), values.double(), mask=mask)
    # Room for later columns, which nothing was written to: not read.
    keys, values = F.pad(keys, (0, 0, 0, 11), value=NAN), F.pad(values, (0, 0, 0, 11), value=NAN)
    check(span_attention(query, keys, values, spans=spans, splits=splits), plain, exact)


def test_rows_that_stand_in_different_columns(device: torch.device) -> None:
    """`kept` is a row's own: as if each were encoded alone."""
    query = draw(2, 4, 5, 8, dtype=torch.float32, device=device)
    keys, values = draw(2, 2, 2, 40, 8, seed=1, dtype=torch.float32, device=device)
    kept = torch.tensor([30, 3], device=device)
    spans = causal_spans(kept, columns=5)
    ours = span_attention(query, keys, values, spans=spans)
    for row, columns in enumerate((35, 8)):
        part = slice(row, row + 1)
        mask = torch.ones(5, columns, dtype=torch.bool, device=device).tril(columns - 5)
        exact = attention_reference(
            query[part].double(), keys[part, :, :columns].double(),
            values[part, :, :columns].double(), mask=mask[None, None],
        )  # fmt: skip
        assert off(ours[part], exact) < 2e-6

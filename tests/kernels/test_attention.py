import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.kernels.attention import attention, attention_reference

# (B, H, K, n, S, D)
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 4, 2, 5, 9, 8),
    (1, 6, 3, 3, 17, 7),
    (3, 5, 1, 7, 7, 16),
    (1, 4, 4, 2, 33, 12),
]


def naive(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Head by head in float64; no scale."""
    query, key, value = query.double(), key.double(), value.double()
    group = query.shape[1] // key.shape[1]
    heads = []
    for head in range(query.shape[1]):
        scores = query[:, head] @ key[:, head // group].mT  # (B, n, S)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], -torch.inf)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        heads.append(weights @ value[:, head // group])
    return torch.cat(heads, dim=-1)


def draw(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, kv_heads, n, columns, dim = shape
    generator = torch.Generator().manual_seed(sum(shape))
    query = torch.randn(batch, heads, n, dim, generator=generator)
    key, value = torch.randn(2, batch, kv_heads, columns, dim, generator=generator)
    return query, key, value


def close(ours: Tensor, exact: Tensor) -> None:
    # Scores of up to about 20 carry 2e-6 into the exponent.
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_seen(shape: tuple[int, ...]) -> None:
    query, key, value = draw(shape)
    ours = attention(query, key, value)
    assert ours.shape == (shape[0], shape[3], shape[1] * shape[5])
    close(ours, naive(query, key, value, None))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("shared", [True, False], ids=["one mask", "a mask a row"])
def test_masked(shape: tuple[int, ...], shared: bool) -> None:
    query, key, value = draw(shape)
    batch, _, _, n, columns, _ = shape
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(1 if shared else batch, 1, n, columns, generator=generator) < 0.5
    mask[..., 0] = True
    close(attention(query, key, value, mask=mask), naive(query, key, value, mask))


def test_one_row_of_columns_for_all_queries() -> None:
    """As a canvas sees its cache: a mask (B, 1, 1, S)."""
    query, key, value = draw((2, 4, 2, 5, 9, 8))
    mask = torch.rand(2, 1, 1, 9, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[..., 0] = True
    close(attention(query, key, value, mask=mask), naive(query, key, value, mask))


def test_causal() -> None:
    query, key, value = draw((3, 5, 1, 7, 7, 16))
    triangle = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    close(attention(query, key, value, causal=True), naive(query, key, value, triangle))


def test_gradients() -> None:
    query, key, value = draw((2, 4, 2, 5, 9, 8))
    mask = torch.ones(1, 1, 5, 9, dtype=torch.bool).tril(3)
    ours = [t.clone().requires_grad_() for t in (query, key, value)]
    attention(*ours, mask=mask).square().sum().backward()
    exact = [t.double().requires_grad_() for t in (query, key, value)]
    naive(*exact, mask).square().sum().backward()
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["all", "mask", "rows of columns", "causal"])
def test_reference_and_fused_operator(shape: tuple[int, ...], kind: str) -> None:
    """Value and gradients of the plain products are those of torch's own operator, in float64."""
    query, key, value = (t.double() for t in draw(shape))
    batch, heads, kv_heads, n, columns, _ = shape
    if kind == "causal" and n != columns:
        n = columns = min(n, columns)
        query, key, value = query[:, :, :n], key[:, :, :n], value[:, :, :n]
    mask = None
    if kind in ("mask", "rows of columns"):
        rows = n if kind == "mask" else 1
        mask = torch.rand(batch, 1, rows, columns, generator=torch.Generator().manual_seed(4)) < 0.5
        mask[..., -1] = True
    results = []
    for function in ("reference", "fused"):
        leaves = [t.clone().requires_grad_() for t in (query, key, value)]
        if function == "reference":
            out = attention_reference(*leaves, mask=mask, causal=kind == "causal")
        else:
            out = F.scaled_dot_product_attention(
                *leaves, attn_mask=mask, is_causal=kind == "causal", scale=1.0,
                enable_gqa=heads != kv_heads,
            )  # fmt: skip
            out = out.transpose(1, 2).flatten(2)
        out.pow(3).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_the_two_paths_of_the_cpu_agree() -> None:
    """With and without a gradient wanted."""
    query, key, value = draw((2, 4, 2, 5, 9, 8))
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    mask[1, ..., :4] = False
    fused = attention(query, key, value, mask=mask)
    with_gradient = attention(query.requires_grad_(), key, value, mask=mask)
    torch.testing.assert_close(fused, with_gradient, rtol=0, atol=1e-5)

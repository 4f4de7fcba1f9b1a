"""Who sees whom, against the rule written out for one query and one key (model-spec §4)."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gesso.model.masks import causal_mask, image_blocks

CPU = torch.device("cpu")


@given(
    columns=st.integers(1, 9),
    kept=st.integers(0, 6),
    data=st.data(),
    window=st.none() | st.integers(1, 8),
)
def test_against_the_rule(columns: int, kept: int, window: int | None, data: st.DataObject) -> None:
    def draw(count: int) -> Tensor:
        return torch.tensor([data.draw(st.lists(st.booleans(), min_size=count, max_size=count))])

    real = draw(kept + columns) if data.draw(st.booleans()) else None
    is_image = draw(columns)
    blocks = image_blocks(is_image)
    mask = causal_mask(
        columns=columns, kept=kept, window=window, padding=real, blocks=blocks, device=CPU
    )
    if mask is None:  # the plain triangle
        assert kept == 0
        mask = torch.ones(1, 1, columns, columns, dtype=torch.bool).tril()
    assert mask.shape == (1, 1, columns, kept + columns)
    for query in range(columns):
        for key in range(kept + columns):
            distance = kept + query - key
            seen = distance >= 0 and (window is None or distance < window)
            seen |= key >= kept and one_image(is_image[0], query, key - kept)
            if real is not None and distance:
                seen &= bool(real[0, key])
            assert mask[0, 0, query, key] == seen


def one_image(is_image: Tensor, a: int, b: int) -> bool:
    """Nothing but image tokens from one to the other."""
    return bool(is_image[min(a, b) : max(a, b) + 1].all())


def test_no_query_is_left_without_a_key() -> None:
    """Softmax over nothing is NaN in some attention kernels; padding columns see themselves."""
    real = torch.tensor([[False] * 7 + [True, False], [False] * 9])
    for window in (None, 3):
        mask = causal_mask(columns=6, kept=3, window=window, padding=real, blocks=None, device=CPU)
        assert mask is not None
        assert mask.any(-1).all()


def test_image_blocks() -> None:
    runs = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0]]).bool()
    blocks = image_blocks(runs)
    assert blocks is not None
    assert blocks.tolist() == [[0, 1, 1, 0, 2, 0, 0, 3], [1, 0, 0, 0, 0, 0, 0, 0]]
    assert image_blocks(torch.zeros(2, 4, dtype=torch.bool)) is None

import pytest
import torch

from gesso.diffusion.noise import corrupt, ramp, slip

VOCAB = 64


def noisy(level: float | list[float], *, rows: int = 4, length: int = 20_000, seed: int = 0):
    tokens = torch.arange(rows * length).view(rows, length) % VOCAB
    levels = torch.tensor([level] * rows if isinstance(level, float) else level)
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(tokens.shape, generator=generator)
    noise = torch.randint(VOCAB, tokens.shape, generator=generator)
    return tokens, corrupt(tokens, levels, uniform=uniform, noise=noise)


def test_at_level_0_it_is_the_identity() -> None:
    tokens, corrupted = noisy(0.0)
    assert torch.equal(tokens, corrupted)


def test_at_level_1_it_is_the_prior() -> None:
    """Uniform over the whole vocabulary, and nothing is left of the tokens."""
    tokens, corrupted = noisy(1.0)
    counts = torch.bincount(corrupted.flatten(), minlength=VOCAB).double()
    assert len(counts) == VOCAB
    expected = tokens.numel() / VOCAB
    # Chi-square, 63 degrees of freedom: six deviations above the mean.
    assert float((counts - expected).square().sum() / expected) < 63 + 6 * (2 * VOCAB) ** 0.5
    assert float((tokens == corrupted).double().mean()) == pytest.approx(1 / VOCAB, abs=0.003)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_rate(level: float) -> None:
    """A token changes with probability t (1 - 1/V): a redraw may give the same one."""
    tokens, corrupted = noisy(level)
    changed = float((tokens != corrupted).double().mean())
    assert changed == pytest.approx(level * (1 - 1 / VOCAB), abs=0.009)  # five deviations


def test_each_row_has_its_own_level() -> None:
    tokens, corrupted = noisy([0.0, 1.0, 0.25, 0.0])
    assert torch.equal(tokens[[0, 3]], corrupted[[0, 3]])
    changed = (tokens != corrupted).double().mean(1).tolist()
    assert changed[1] > 0.97
    assert changed[2] == pytest.approx(0.246, abs=0.02)


def test_the_draws_decide_and_the_tokens_stay_as_they_are() -> None:
    tokens, first = noisy(0.5, seed=1)
    assert torch.equal(tokens, torch.arange(tokens.numel()).view_as(tokens) % VOCAB)
    assert torch.equal(first, noisy(0.5, seed=1)[1])
    assert not torch.equal(first, noisy(0.5, seed=2)[1])


def test_levels_by_position() -> None:
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    levels = torch.tensor([[0.0] * 4 + [1.0] * 4])
    uniform, noise = torch.rand(1, 8), torch.ones(1, 8, dtype=torch.int64)
    changed = corrupt(tokens, levels, uniform=uniform, noise=noise)[0] != 0
    assert changed.tolist() == [False] * 4 + [True] * 4


def test_a_ramp_rises_from_all_clean_to_all_noise() -> None:
    middle, width = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.25, 0.5, 0.25])
    levels = ramp(middle, width, length=16)
    assert (levels.diff(dim=1) >= 0).all()
    assert (levels[0] == 1).all()
    assert levels[1, 0] == 0
    assert levels[1, -1] == 1
    assert (levels[2] == 0).all()
    # The rise takes its share of the canvas, around the middle.
    assert ((levels[1] > 0) & (levels[1] < 1)).sum() == 8


def slipped(rows: int = 4000, *, share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each token of a canvas of 16 came from, less where it stands; and the draws."""
    uniform = torch.rand(rows, 4, generator=torch.Generator().manual_seed(3))
    places = torch.arange(16).expand(rows, 16)
    return slip(places, uniform, share=share) - places, uniform


def test_a_slip_moves_one_stretch_by_one_distance() -> None:
    moves, uniform = slipped()
    for move, (_, _, begin, _) in zip(moves.tolist(), uniform.tolist(), strict=True):
        first = int(begin * 16)
        assert not any(move[:first])
        # The canvas has no tokens beyond its ends: a stretch there is cut short.
        inner = [m for place, m in enumerate(move) if 3 <= place < 13 and m]
        assert len(set(inner)) <= 1
        assert all(abs(m) <= 3 for m in move)
        moved = [place for place, m in enumerate(move) if m]
        assert moved == list(range(moved[0], moved[-1] + 1)) if moved else True


def test_slips_reach_the_end_half_of_the_time_and_both_ways() -> None:
    moves, uniform = slipped()
    begins_early = uniform[:, 2] < 0.5
    to_the_end = (moves[begins_early, 11] != 0).double().mean()
    assert 0.5 < float(to_the_end) < 0.8
    middle = moves[:, 8][moves[:, 8] != 0]
    assert float((middle > 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert float((middle.abs() == 1).double().mean()) == pytest.approx(0.6, abs=0.05)


def test_the_share_of_rows_that_slip() -> None:
    moves, uniform = slipped(share=0.25)
    assert not moves[uniform[:, 0] >= 0.25].any()
    assert moves[uniform[:, 0] < 0.25].any(1).double().mean() > 0.8
    assert not slipped(share=0.0)[0].any()

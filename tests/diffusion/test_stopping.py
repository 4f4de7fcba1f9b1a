import pytest
import torch

from gesso.diffusion.stopping import NeverEarly, StableAndConfident

L = 3


def run(stability: int, drafts: list[list[int]], entropy: float = 0.0) -> list[bool]:
    """The verdict after each draft of one row, with the loop's own bookkeeping written naively."""
    rule = StableAndConfident(stability=stability, confidence=0.1)
    history = [[-1] * L] * rule.memory
    verdicts = []
    for draft in drafts:
        earlier = torch.tensor(history).view(1, rule.memory, L)
        verdict = rule(torch.tensor([draft]), earlier, torch.full((1, L), entropy))
        verdicts.append(bool(verdict))
        history = [*history, draft][1:] if rule.memory else []
    return verdicts


A, B = [1, 2, 3], [1, 2, 4]


@pytest.mark.parametrize(
    ("stability", "drafts", "verdicts"),
    [
        (0, [A, B], [True, True]),
        (1, [A, A, B, B], [False, True, False, True]),
        (2, [A, A, A, B, A, A, A], [False, False, True, False, False, False, True]),
        (2, [A, B, A], [False] * 3),
    ],
)
def test_k_earlier_canvases_must_equal_this_one(stability, drafts, verdicts) -> None:
    """K + 1 equal drafts in a row, so at least K + 1 steps."""
    assert run(stability, drafts) == verdicts


@pytest.mark.parametrize("stability", [0, 1, 2])
def test_stable_without_confidence_goes_on(stability: int) -> None:
    assert run(stability, [A] * 5, entropy=0.2) == [False] * 5


def test_the_mean_entropy_must_be_below_and_not_at_the_threshold() -> None:
    rule = StableAndConfident(stability=0, confidence=0.25)
    argmax, earlier = torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 0, 4, dtype=torch.int64)
    entropy = torch.tensor([[0.25] * 4, [0.0, 0.0, 0.0, 0.999], [0.0, 0.0, 0.0, 1.001]])
    assert rule(argmax, earlier, entropy).tolist() == [False, True, False]


def test_rows_are_judged_one_by_one() -> None:
    rule = StableAndConfident(stability=1, confidence=1.0)
    argmax = torch.tensor([A, A, A])
    earlier = torch.tensor([[A], [B], [[-1] * L]])
    assert rule(argmax, earlier, torch.zeros(3, L)).tolist() == [True, False, False]


def test_never_early() -> None:
    rule = NeverEarly()
    assert rule.memory == 0
    verdict = rule(torch.tensor([A, A]), torch.zeros(2, 0, L, dtype=torch.int64), torch.zeros(2, L))
    assert verdict.tolist() == [False, False]

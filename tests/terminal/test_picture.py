"""The fold from events to a picture."""

import torch

from gesso.generation.events import Commit, Draft
from gesso.terminal.picture import Picture


def draft(*tokens: int, canvas: int = 0, step: int = 0) -> Draft:
    ids = torch.tensor(tokens)
    return Draft(
        row=0,
        canvas=canvas,
        step=step,
        tokens=ids,
        entropy=torch.zeros(len(ids)),
        accepted=torch.ones(len(ids), dtype=torch.bool),
    )


def commit(*tokens: int, canvas: int = 0, steps: int = 2, forwards: int = 2) -> Commit:
    return Commit(row=0, canvas=canvas, token_ids=tokens, text="", steps=steps, forwards=forwards)


def fold(*events: Draft | Commit) -> Picture:
    picture = Picture()
    for second, event in enumerate(events, 1):
        picture = picture.after(event, seconds=float(second))
    return picture


def test_nothing_has_changed_at_a_canvas_s_first_step() -> None:
    assert fold(draft(7, 8)).changed == (False, False)
    assert fold(draft(7, 8), draft(7, 9, step=1)).changed == (False, True)
    later = fold(draft(7, 8), draft(7, 9, step=1), commit(7, 9), draft(1, 2, canvas=1))
    assert later.changed == (False, False)


def test_a_commit_moves_the_canvas_above() -> None:
    picture = fold(draft(7, 8), commit(7, 8, steps=1), draft(5, 6, canvas=1))
    assert picture.committed == (7, 8)
    assert picture.tokens == (5, 6)
    assert (picture.canvas, picture.step, picture.seconds) == (1, 0, 3.0)


def test_the_canvas_in_work_does_not_count_for_tokens_per_forward() -> None:
    assert fold(draft(1, 2), draft(1, 2, step=1)).tokens_per_forward is None
    first = (draft(1, 2), draft(1, 2, step=1), commit(1, 2))
    assert fold(*first).tokens_per_forward == 1.0
    assert fold(*first, draft(3, 4, canvas=1)).tokens_per_forward == 1.0


def test_without_drafts_each_commit_is_a_forward() -> None:
    picture = fold(commit(1, steps=1, forwards=1), commit(2, canvas=1, steps=1))
    assert picture.forwards == 2
    assert picture.tokens_per_forward == 1.0


def test_verifying_passes_are_forwards_too() -> None:
    picture = fold(draft(1, 2), commit(1, 2, steps=1, forwards=4))
    assert picture.tokens_per_forward == 0.5

"""Brackets: the answer closes the text, and nothing held out was trained on."""

import itertools

import pytest

from gesso.tasks import get_task
from gesso.tasks.brackets import PAIRS, PREFIX

TASK = get_task("brackets")


def some(split: str, seed: int = 0, n: int = 300) -> list:
    return list(itertools.islice(TASK.examples(split=split, seed=seed), n))


@pytest.mark.parametrize("split", ["train", "held"])
def test_the_answer_closes_the_text(split: str) -> None:
    for example in some(split):
        still_open: list[str] = []
        for mark in example.prompt.removeprefix(PREFIX) + example.completion:
            if mark in PAIRS:
                still_open.append(PAIRS[mark])
            elif mark in PAIRS.values():
                assert still_open.pop() == mark
        assert not still_open
        assert set(example.completion) <= set(PAIRS.values())


def test_splits_and_seeds() -> None:
    train, held = ({e.prompt for e in some(split)} for split in ("train", "held"))
    assert not train & held
    assert some("train", 1) == some("train", 1) != some("train", 2)
    with pytest.raises(ValueError, match="unknown split 'x'; known: train, held"):
        TASK.examples(split="x", seed=0)


def test_verdicts() -> None:
    example = next(e for e in some("held") if len(e.completion) == 4)
    right = example.completion
    assert TASK.verdict(example, right + "\n") == dict(exact=1.0, prefix=1.0)
    assert TASK.verdict(example, right[:3]) == dict(exact=0.0, prefix=0.75)
    assert TASK.verdict(example, right + ")") == dict(exact=0.0, prefix=1.0)
    assert TASK.verdict(example, "") == dict(exact=0.0, prefix=0.0)

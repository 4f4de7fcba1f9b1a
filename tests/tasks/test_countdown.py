"""Countdown: every example is solved by its answer; the judge takes any way, and no cheating."""

import itertools

import pytest

from gesso.tasks import Example, get_task
from gesso.tasks.countdown import read

TASK = get_task("countdown")


def some(split: str, seed: int = 0, n: int = 200) -> list[Example]:
    return list(itertools.islice(TASK.examples(split=split, seed=seed), n))


@pytest.mark.parametrize("split", ["train", "held"])
def test_the_answer_is_right(split: str) -> None:
    for example in some(split):
        assert TASK.verdict(example, example.completion) == dict(exact=1.0, same=1.0)
        numbers, target = read(example.prompt)
        assert len(numbers) - 1 == len(example.completion.split("\n"))
        assert 0 < target <= 999


def test_splits_and_seeds() -> None:
    train, held = (
        {tuple(sorted(read(e.prompt)[0])) for e in some(split)} for split in ("train", "held")
    )
    assert not train & held
    assert some("train", 1) == some("train", 1) != some("train", 2)
    with pytest.raises(ValueError, match="unknown split 'x'; known: train, held"):
        TASK.examples(split="x", seed=0)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("3*8=24\n24+7=31", 1),
        ("8*3=24\n7+24=31\n", 1),
        ("3*8=24", 0),  # a number is left over
        ("3*8=24\n24+7=32", 0),  # a wrong sum
        ("3*8=24\n24+8=32", 0),  # a number used twice
        ("31+1=32", 0),  # numbers that are not there
        ("7-8=1\n", 0),
        ("3*8=24\n24+7=31\nso 31", 0),
        ("", 0),
        ("=31", 0),
    ],
)
def test_verdicts(text: str, exact: int) -> None:
    example = Example(prompt="Countdown: 3 8 7 -> 31", completion="3*8=24\n24+7=31")
    assert TASK.verdict(example, text)["exact"] == exact

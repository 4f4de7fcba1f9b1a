"""Puzzles: one solution each, in the clue range, and none shared between the splits."""

import itertools
from random import Random

import pytest

import gesso
from gesso.engine import Engine
from gesso.tasks import get_task
from gesso.tasks.sudoku.grid import dig, is_unique, is_valid, shuffled, solutions
from gesso.tasks.sudoku.task import CLUES, SHAPES, SudokuTask

SIZES = sorted(SHAPES)


def read(text: str) -> tuple[int, ...]:
    return tuple(int(c) for c in text.removeprefix("Sudoku:\n") if c.isdigit())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("split", ["train", "held"])
def test_every_puzzle_has_one_solution_and_it_is_the_answer(size: int, split: str) -> None:
    shape = SHAPES[size]
    low, high = CLUES[size]
    for example in itertools.islice(SudokuTask(size).examples(split=split, seed=1), 20):
        puzzle, answer = read(example.prompt), read(example.completion)
        assert list(solutions(puzzle, shape)) == [answer]
        assert is_valid(answer, shape)
        clues = sum(map(bool, puzzle))
        assert low <= clues <= high
        first, last = example.info["kind"].removesuffix(" clues").split("-")
        assert int(first) <= clues <= int(last)


def test_all_four_by_four_grids() -> None:
    assert len(set(solutions((0,) * 16, SHAPES[4]))) == 288


def test_no_solution_and_several() -> None:
    assert not list(solutions((1, 1, *(0,) * 14), SHAPES[4]))
    assert not is_unique((1, *(0,) * 15), SHAPES[4])
    assert not is_valid((0,) * 16, SHAPES[4])


@pytest.mark.parametrize("size", SIZES)
def test_splits_share_no_solution(size: int) -> None:
    seen = {
        split: {
            example.completion
            for example in itertools.islice(
                get_task(f"sudoku{size}").examples(split=split, seed=2), 60
            )
        }
        for split in ("train", "held")
    }
    assert not seen["train"] & seen["held"]


def test_easy_puzzles_have_more_clues_and_share_the_split() -> None:
    easy = get_task("sudoku9-easy")
    examples = list(itertools.islice(easy.examples(split="train", seed=1), 40))
    clues = [sum(map(bool, read(example.prompt))) for example in examples]
    assert min(clues) > CLUES[9][1]
    assert max(clues) < 81
    held = itertools.islice(get_task("sudoku9").examples(split="held", seed=1), 40)
    assert not {e.completion for e in examples} & {e.completion for e in held}
    assert easy.verdict(examples[0], examples[0].completion)["exact"] == 1.0


def test_seeds() -> None:
    def some(seed: int, split: str = "train") -> list[str]:
        stream = get_task("sudoku4").examples(split=split, seed=seed)
        return [example.prompt for example in itertools.islice(stream, 40)]

    assert some(1) == some(1) != some(2)
    assert some(1) != some(1, "held")
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, held"):
        get_task("sudoku4").examples(split="test", seed=0)


@pytest.mark.parametrize("size", SIZES)
def test_symmetries_keep_a_puzzle(size: int) -> None:
    rng, shape = Random(5), SHAPES[size]
    solved = next(solutions((0,) * size**2, shape, rng))
    puzzle = None
    while puzzle is None:
        puzzle = dig(solved, shape, CLUES[size][1], rng)
    for _ in range(10):
        moved, answer = shuffled(puzzle, solved, shape, rng)
        assert list(solutions(moved, shape)) == [answer]


def test_verdicts() -> None:
    task = get_task("sudoku4")
    example = next(task.examples(split="held", seed=0))
    right = example.completion
    assert task.verdict(example, right) == dict(exact=1, valid=1, clues=1, cells=1)
    assert task.verdict(example, right + "\n")["exact"] == 1
    other = right.translate(str.maketrans("1234", "2143"))
    assert task.verdict(example, other) == dict(exact=0, valid=1, clues=0, cells=0)
    lame = right[:-1] + str(int(right[-1]) % 4 + 1)
    assert task.verdict(example, lame)["cells"] == 15 / 16
    assert task.verdict(example, lame)["valid"] == 0
    for wrong in ("", right[:-1], right + "1", "abcd\n" * 4, right.replace("\n", "")):
        assert set(task.verdict(example, wrong).values()) == {0.0}


def test_the_embedded_solver() -> None:
    """On held-out puzzles of many clues, which it seldom misses."""
    task = get_task("sudoku9-easy")
    examples = list(itertools.islice(task.examples(split="held", seed=3), 4))
    engine = Engine(gesso.load("sudoku9"), max_rows=4)
    found = engine.answers([example.prompt for example in examples])
    exact = [task.verdict(examples[place], result.text)["exact"] for place, result in found]
    assert sum(exact) >= 3

"""The task: puzzles by clue count, which solutions a split may use, and the judge."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from random import Random

from gesso.tasks.sudoku.grid import Grid, Shape, dig, is_valid, shuffled, solutions
from gesso.tasks.task import Example, check_split

SHAPES = {4: Shape(height=2, width=2), 6: Shape(height=2, width=3), 9: Shape(height=3, width=3)}
# Fewest and most clues, and how many of them make a band of the report.
CLUES = {4: (4, 8), 6: (10, 18), 9: (30, 40)}
EASY_CLUES = {9: (41, 76)}
BAND = {4: 2, 6: 3, 9: 5}
# One solution in so many is held out.
HELD = 8
# A dug puzzle is used under so many symmetries: digging takes a hundred times as long.
USES = 32
PREFIX = "Sudoku:\n"


class SudokuTask:
    """Puzzles of one size. The contract is in the package's docstring."""

    splits: Mapping[str, str] = {
        "train": "puzzles whose solutions training may see",
        "held": "puzzles whose solutions were never seen in training",
    }

    def __init__(self, size: int, *, easy: bool = False) -> None:
        self.name = f"sudoku{size}-easy" if easy else f"sudoku{size}"
        self.size = size
        self.shape = SHAPES[size]
        self.clues = (EASY_CLUES if easy else CLUES)[size]

    def examples(self, *, split: str, seed: int) -> Iterator[Example]:
        """An endless stream, the same for the same split and seed. ValueError: unknown split."""
        check_split(self, split)
        return self._stream(split, Random(f"{self.name}:{split}:{seed}"))

    def verdict(self, example: Example, text: str) -> dict[str, float]:
        """exact: the solution; valid: any rightly filled grid; clues: none of them was changed;
        cells: the share of all cells that are right."""
        wanted, puzzle = self._read(example.completion), self._read(str(example.prompt))
        found = self._read(text)
        assert wanted is not None
        assert puzzle is not None
        if found is None:
            return {"exact": 0.0, "valid": 0.0, "clues": 0.0, "cells": 0.0}
        kept = all(a in (0, b) for a, b in zip(puzzle, found, strict=True))
        right = sum(a == b for a, b in zip(wanted, found, strict=True))
        return {
            "exact": float(found == wanted),
            "valid": float(is_valid(found, self.shape)),
            "clues": float(kept),
            "cells": right / len(wanted),
        }

    def _stream(self, split: str, rng: Random) -> Iterator[Example]:
        blank: Grid = (0,) * self.size**2
        while True:
            clues = rng.randint(*self.clues)
            solved = next(solutions(blank, self.shape, rng))
            puzzle = dig(solved, self.shape, clues, rng)
            if puzzle is None:
                continue
            for _ in range(USES):
                seen, answer = shuffled(puzzle, solved, self.shape, rng)
                if is_held(answer) == (split == "held"):
                    yield self._example(seen, answer, clues)
                    if split == "held":
                        # Many looks at one puzzle would be fewer puzzles than the report says.
                        break

    def _example(self, puzzle: Grid, answer: Grid, clues: int) -> Example:
        (low, high), band = self.clues, BAND[self.size]
        first = low + (clues - low) // band * band
        return Example(
            prompt=PREFIX + self._write(puzzle),
            completion=self._write(answer),
            info={"kind": f"{first}-{min(first + band - 1, high)} clues"},
        )

    def _write(self, grid: Grid) -> str:
        n = self.size
        return "\n".join("".join(map(str, grid[r : r + n])) for r in range(0, n * n, n))

    def _read(self, text: str) -> Grid | None:
        """The grid in a text of nothing but its rows, after the prefix if it is there."""
        rows = text.removeprefix(PREFIX).strip().split("\n")
        digits = {str(digit): digit for digit in range(self.size + 1)}
        if len(rows) != self.size or any(len(row) != self.size for row in rows):
            return None
        cells = "".join(rows)
        return tuple(digits[c] for c in cells) if set(cells) <= set(digits) else None


def is_held(solved: Grid) -> bool:
    """Whether a solved grid belongs to the held-out ones: by a hash of its digits."""
    return zlib.crc32(bytes(solved)) % HELD == 0

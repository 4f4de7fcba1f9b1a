"""Grids of digits: solving, counting solutions, digging puzzles, and the symmetries that keep them.

A grid is a flat tuple of size * size digits, 0 where it is blank. Candidates are bit sets: bit d-1
stands for the digit d.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from random import Random

Grid = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Boxes of `height` rows and `width` columns; the grid's side is their product."""

    height: int
    width: int

    @property
    def size(self) -> int:
        return self.height * self.width

    @cached_property
    def units(self) -> tuple[tuple[int, int, int], ...]:
        """Row, column and box of every cell, numbered 0 .. 3 size - 1."""
        n = self.size
        return tuple(
            (r, n + c, 2 * n + r // self.height * self.height + c // self.width)
            for r in range(n)
            for c in range(n)
        )

    @property
    def full(self) -> int:
        return (1 << self.size) - 1


def solutions(grid: Grid, shape: Shape, rng: Random | None = None) -> Iterator[Grid]:
    """All completions, one after the other; in a random order with `rng`.

    Depth first, the cell with the fewest candidates next.
    """
    used = [0] * (3 * shape.size)
    cells = list(grid)
    for place, digit in enumerate(cells):
        bit = 1 << digit >> 1
        if any(used[unit] & bit for unit in shape.units[place]):
            return
        for unit in shape.units[place]:
            used[unit] |= bit
    yield from _search(cells, used, shape, rng)


def _search(cells: list[int], used: list[int], shape: Shape, rng: Random | None) -> Iterator[Grid]:
    best, fewest, open_bits = -1, shape.size + 1, 0
    for place, digit in enumerate(cells):
        if digit:
            continue
        row, column, box = shape.units[place]
        bits = shape.full & ~(used[row] | used[column] | used[box])
        count = bits.bit_count()
        if count < fewest:
            best, fewest, open_bits = place, count, bits
            if count <= 1:
                break
    if best < 0:
        yield tuple(cells)
        return
    digits = [digit for digit in range(1, shape.size + 1) if open_bits >> (digit - 1) & 1]
    if rng is not None:
        rng.shuffle(digits)
    for digit in digits:
        bit = 1 << (digit - 1)
        for unit in shape.units[best]:
            used[unit] |= bit
        cells[best] = digit
        yield from _search(cells, used, shape, rng)
        cells[best] = 0
        for unit in shape.units[best]:
            used[unit] &= ~bit


def is_unique(grid: Grid, shape: Shape) -> bool:
    """Whether there is exactly one completion."""
    found = solutions(grid, shape)
    return next(found, None) is not None and next(found, None) is None


def is_valid(grid: Grid, shape: Shape) -> bool:
    """Whether it is full and no row, column or box holds a digit twice."""
    return 0 not in grid and next(solutions(grid, shape), None) == grid


def dig(solved: Grid, shape: Shape, clues: int, rng: Random) -> Grid | None:
    """A puzzle with that many clues and this one solution; None when this order leads to none."""
    cells = list(solved)
    left = len(cells)
    for place in rng.sample(range(len(cells)), len(cells)):
        if left == clues:
            break
        digit, cells[place] = cells[place], 0
        if is_unique(tuple(cells), shape):
            left -= 1
        else:
            cells[place] = digit
    return tuple(cells) if left == clues else None


def shuffled(puzzle: Grid, solved: Grid, shape: Shape, rng: Random) -> tuple[Grid, Grid]:
    """The same puzzle under a random symmetry: digits renamed, rows and columns moved within
    their bands, bands moved, and rows made columns where boxes are square."""
    n = shape.size
    names = [0, *rng.sample(range(1, n + 1), n)]
    rows, columns = _order(shape.height, n, rng), _order(shape.width, n, rng)
    turned = shape.height == shape.width and rng.random() < 0.5

    def move(grid: Grid) -> Grid:
        return tuple(
            names[grid[c * n + r] if turned else grid[r * n + c]] for r in rows for c in columns
        )

    return move(puzzle), move(solved)


def _order(band: int, size: int, rng: Random) -> list[int]:
    bands = rng.sample(range(0, size, band), size // band)
    return [line for first in bands for line in rng.sample(range(first, first + band), band)]

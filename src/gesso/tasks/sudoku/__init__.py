"""The `sudoku` tasks: a puzzle with exactly one solution becomes the solved grid.

    prompt      Sudoku:\n0103\n3000\n0020\n0001
    answer      2143\n3412\n1324\n4231\n … row by row, nothing between the digits, 0 is blank

Three sizes, each a task: sudoku4 (boxes of 2 by 2), sudoku6 (2 by 3), sudoku9 (3 by 3). Puzzles are
drawn with a number of clues from the size's range and reported by band of clues. sudoku9-easy has
the puzzles with more clues than sudoku9's, from which its rules are learned sooner.

What is held out: whole solutions. A solved grid belongs to the split "held" or to training by a
hash of its digits, so no held-out puzzle has the solution of one that was trained on.
"""

from gesso.tasks.sudoku.task import SudokuTask

__all__ = ["SudokuTask"]

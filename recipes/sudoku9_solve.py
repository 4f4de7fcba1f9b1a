"""9x9 Sudoku, second stage: puzzles of 30 to 40 clues.

    gesso train recipes/sudoku9_solve.py --out runs/sudoku9-solve

From the first stage (recipes/sudoku9.py), with the learning rate going down to nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import TrainConfig
from recipes import sudoku9

RULES = Path("runs/sudoku9-rules/checkpoint")


def recipe() -> TrainConfig:
    rules = sudoku9.recipe()
    return replace(
        rules,
        base=RULES,
        steps=2600,
        tasks={"sudoku9": 0.9, "sudoku9-easy": 0.1},
        optimizer=replace(rules.optimizer, final_lr_share=0.02),
        seed=1,
    )

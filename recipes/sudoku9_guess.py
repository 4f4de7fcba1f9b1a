"""9x9 Sudoku, fifth stage: more of the fourth, with all the heat and boldness of inference.

    gesso train recipes/sudoku9_guess.py --out runs/sudoku9-guess

From the fourth stage (recipes/sudoku9_bold.py), whose learning rate came down too soon.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import TrainConfig
from recipes import sudoku9_bold

BOLD = Path("runs/sudoku9-bold/checkpoint")


def recipe() -> TrainConfig:
    bold = sudoku9_bold.recipe()
    return replace(
        bold,
        base=BOLD,
        steps=1000,
        objective=replace(
            bold.objective,
            unroll_bounds=(0.02, 4.0),
            unroll_temperatures=(1.0, 2.5),
        ),
        seed=4,
    )

"""9x9 Sudoku, third stage: where the sampler leads.

    gesso train recipes/sudoku9_mend.py --out runs/sudoku9

From the second stage (recipes/sudoku9_solve.py). The sampler fills the cells that it is sure of,
and a cell that is wrong misleads the rest: here canvases are what up to four of its steps made of
them, so that its own mistakes are met, and mended, in training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import TrainConfig
from recipes import sudoku9_solve

SOLVE = Path("runs/sudoku9-solve/checkpoint")


def recipe() -> TrainConfig:
    solve = sudoku9_solve.recipe()
    return replace(
        solve,
        base=SOLVE,
        steps=700,  # the shipped weights are those after 600
        tasks={"sudoku9": 1.0},
        optimizer=replace(solve.optimizer, lr=1e-3, warmup_steps=20),
        objective=replace(
            solve.objective,
            self_conditioning=0.8,
            unroll=0.6,
            unroll_steps=4,
            unroll_bounds=(0.01, 0.3),
            unroll_temperatures=(1.0, 1.3),
        ),
        seed=2,
    )

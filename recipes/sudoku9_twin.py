"""The autoregressive twin of `sudoku9`: the same shape, data and optimizer, the causal loss alone.

gesso train recipes/sudoku9_twin.py --out runs/sudoku9-twin
gesso eval sudoku9 --model runs/sudoku9-twin/checkpoint --mode autoregressive --n 500
"""

from __future__ import annotations

from dataclasses import replace

from gesso.training.config import TrainConfig
from recipes import sudoku9


def recipe() -> TrainConfig:
    diffusion = sudoku9.recipe()
    return replace(
        diffusion,
        steps=3000,
        tasks={"sudoku9": 0.8, "sudoku9-easy": 0.2},
        objective=replace(diffusion.objective, draws=0),
        optimizer=replace(diffusion.optimizer, final_lr_share=0.02),
        evaluation=None,
    )

"""The autoregressive twin of `sudoku4`: the same shape, data and optimizer, the causal loss alone.

    gesso train recipes/sudoku4_twin.py --out runs/sudoku4-twin
    gesso eval sudoku4 --model runs/sudoku4-twin/checkpoint --n 500

A step without canvases is cheaper: the number of steps is what takes as long as `sudoku4`.
"""

from __future__ import annotations

from dataclasses import replace

from gesso.training.config import TrainConfig
from recipes import sudoku4


def recipe() -> TrainConfig:
    diffusion = sudoku4.recipe()
    return replace(
        diffusion,
        steps=3700,
        objective=replace(diffusion.objective, draws=0),
        evaluation=None,
    )

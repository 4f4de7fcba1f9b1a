"""The sixth stage of the embedded default: more skills beside extraction.

    gesso train recipes/tiny_skills.py --out runs/tiny-skills

From the fifth stage (recipes/tiny_sampled.py). Almost half of the examples stay extractions; the
others are 4x4 Sudoku and holes in Python functions, some of them without what follows the hole, so
that the same weights can be asked to go on from left to right. An encoded prompt serves two
canvases, fewer of which the sampler runs on: the new skills begin from nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import TrainConfig
from recipes import tiny_sampled

FIFTH_STAGE = Path("runs/tiny-sampled/checkpoint")


def recipe() -> TrainConfig:
    fifth = tiny_sampled.recipe()
    return replace(
        fifth,
        base=FIFTH_STAGE,
        steps=960,
        tasks={"extract": 0.45, "infill": 0.2, "infill-prefix": 0.05, "sudoku4": 0.3},
        objective=replace(
            fifth.objective,
            draws=2,
            self_conditioning=0.6,
            unroll=0.4,
            unroll_steps=4,
        ),
        # Half a batch at a time stays nearer to the processor.
        accumulate=2,
        save_every=100,
        seed=5,
    )

"""The fourth stage of the embedded default: a word of one token too many, and everything behind it.

    gesso train recipes/tiny_slip.py --out runs/tiny-slipped

What was left after the third stage were words of one token too few or too many, with the rest of
the answer standing a place off. Three tenths of the canvases now begin like that. Muon gets more
out of a step than AdamW, for 4% more time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import OptimizerConfig, TrainConfig
from recipes import tiny_unroll

THIRD_STAGE = Path("runs/tiny-unrolled/checkpoint")


def recipe() -> TrainConfig:
    third = tiny_unroll.recipe()
    return replace(
        third,
        base=THIRD_STAGE,
        steps=2700,
        objective=replace(third.objective, slip=0.3),
        optimizer=OptimizerConfig(
            method="muon", lr=1e-3, warmup_steps=50, final_lr_share=0.02, ema_decay=0.998
        ),
        seed=3,
    )

"""The third stage of the embedded default: the canvas learns to mend its own mistakes.

    gesso train recipes/tiny_unroll.py --out runs/tiny-unrolled

Random noise never shows the mistakes that a sampler makes: a field one token too short, and
everything behind it one place too early. So half of the canvases are ones that a step of the
sampler made of a noised canvas, accepted more and less boldly, and the target stays the answer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import OptimizerConfig, TrainConfig
from recipes import tiny_refine

SECOND_STAGE = Path("runs/tiny-refined/checkpoint")


def recipe() -> TrainConfig:
    second = tiny_refine.recipe()
    return replace(
        second,
        base=SECOND_STAGE,
        steps=3300,
        objective=replace(second.objective, self_conditioning=0.75, unroll=0.67),
        optimizer=OptimizerConfig(lr=1.2e-3, warmup_steps=50, final_lr_share=0.02, ema_decay=0.998),
        seed=2,
    )

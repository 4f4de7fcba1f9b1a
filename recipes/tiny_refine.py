"""The second stage of the embedded default: the canvas learns what the causal pass already knows.

    gesso train recipes/tiny_refine.py --out runs/tiny-refined

After the first stage the causal pass copies names almost without fault, while the canvas still
guesses where in it each token belongs. So the causal loss leaves the prompt's own words alone,
which cannot be foreseen and only add noise to the gradient; each encoded row serves two canvases;
and half of the canvases are noised along a ramp, as the sampler meets them when it fills an
answer from its beginning.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import ObjectiveConfig, OptimizerConfig, TrainConfig
from recipes import tiny

FIRST_STAGE = Path("runs/tiny/checkpoint")


def recipe() -> TrainConfig:
    return replace(
        tiny.recipe(),
        model=None,
        base=FIRST_STAGE,
        steps=1900,
        objective=ObjectiveConfig(ramp=0.5, draws=2, causal_prompt=False),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=50, final_lr_share=0.02, ema_decay=0.995),
        seed=1,
    )

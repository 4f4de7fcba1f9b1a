"""The fifth stage of the embedded default: where the sampler ends, and four times the forms.

    gesso train recipes/tiny_sampled.py --out runs/tiny-sampled

One step of the sampler never led where a canvas stands that does not settle, or settles wrongly.
Two thirds of the canvases are now what up to six steps made of them, at the temperatures and
bounds of inference. The grammar had grown from 430 to 1,670 forms meanwhile: wordings that
training never saw were what left-to-right answers failed on too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gesso.training.config import TrainConfig
from recipes import tiny_slip

FOURTH_STAGE = Path("runs/tiny-slipped/checkpoint")


def recipe() -> TrainConfig:
    fourth = tiny_slip.recipe()
    return replace(
        fourth,
        base=FOURTH_STAGE,
        steps=2000,
        objective=replace(
            fourth.objective,
            self_conditioning=0.8,
            unroll=0.8,
            unroll_steps=6,
            unroll_bounds=(0.05, 1.0),
            unroll_temperatures=(0.4, 0.8),
        ),
        seed=4,
    )

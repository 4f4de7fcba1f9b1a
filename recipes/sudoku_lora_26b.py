"""9x9 Sudoku on the released 26B: the published recipe, with the experts adapted too.

gesso train recipes/sudoku_lora_26b.py --out runs/sudoku-26b --dry-run
gesso train recipes/sudoku_lora_26b.py --out runs/sudoku-26b
"""

from __future__ import annotations

from gesso.model.lora import LoraConfig
from gesso.training.config import OptimizerConfig, TrainConfig
from recipes import released


def recipe() -> TrainConfig:
    return TrainConfig(
        base=released.ID,
        model=released.SHAPE,
        processor=released.ID,
        lora=LoraConfig(rank=8, alpha=16.0),
        tasks={"sudoku9": 1.0},
        steps=2000,
        batch_size=8,
        dtype="bfloat16",
        optimizer=OptimizerConfig(
            lr=1.5e-4,
            warmup_steps=100,
            final_lr_share=0.1,
            betas=(0.95, 0.99),
            weight_decay=1e-4,
            ema_decay=0.0,
        ),
        checkpoint_activations=True,
    )

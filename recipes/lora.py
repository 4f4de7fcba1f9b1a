"""An adapter for the embedded checkpoint, from a file of your own.

    gesso train recipes/lora.py --data mine.jsonl --out runs/mine
    gesso generate --adapter runs/mine/adapter "..."

For another checkpoint change `BASE`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from gesso.model.lora import LoraConfig
from gesso.training.config import ObjectiveConfig, OptimizerConfig, TrainConfig

BASE = Path(str(resources.files("gesso") / "assets" / "tiny"))


def recipe() -> TrainConfig:
    return TrainConfig(
        base=BASE,
        processor=BASE,
        lora=LoraConfig(rank=16, alpha=32.0),
        steps=200,
        batch_size=8,
        # Without --data it adapts to this task.
        tasks={"brackets": 1.0},
        objective=ObjectiveConfig(draws=2, causal_prompt=False),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=10, ema_decay=0.98),
        save_every=100,
    )

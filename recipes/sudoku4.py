"""4x4 Sudoku from random weights, minutes on two CPU cores; and an autoregressive twin.

gesso train recipes/sudoku4.py
gesso eval sudoku4 --model runs/sudoku4/checkpoint --n 500

gesso train recipes/sudoku4.py:twin
gesso eval sudoku4 --model runs/sudoku4-twin/checkpoint --mode autoregressive --n 500
"""

from __future__ import annotations

from dataclasses import replace

from gesso.config import ModelConfig
from gesso.generation_config import GenerationConfig
from gesso.training.config import (
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)
from recipes import tiny, tiny_shape


def recipe() -> TrainConfig:
    embedded = tiny.recipe()
    return replace(
        embedded,
        steps=1500,
        batch_size=32,
        tasks={"sudoku4": 1.0},
        model=model_config(),
        # A puzzle is random: there is nothing in it for the causal loss to learn.
        # An encoded puzzle serves two canvases: the second costs a third of what the first did.
        objective=ObjectiveConfig(causal_prompt=False, draws=2),
        generation=GenerationConfig(eos_token_ids=embedded.generation.eos_token_ids),
        optimizer=OptimizerConfig(
            method="muon", lr=2e-3, warmup_steps=50, final_lr_share=0.02, ema_decay=0.99
        ),
        evaluation=EvaluationConfig(task="sudoku4", every=250, n=64),
        save_every=500,
    )


def twin() -> TrainConfig:
    """The same shape, data and optimizer, the causal loss alone.

    A step without canvases is cheaper: the number of steps is what takes as long.
    """
    diffusion = recipe()
    return replace(
        diffusion,
        steps=2400,
        batch_size=64,
        objective=replace(diffusion.objective, draws=0),
        evaluation=None,
    )


def model_config() -> ModelConfig:
    """The embedded checkpoint's shape, narrower: a grid and its end are a canvas of 20."""
    shape = tiny_shape.model_config()
    sliding, full = "sliding_attention", "full_attention"
    return replace(
        shape,
        text=replace(
            shape.text,
            hidden_size=96,
            intermediate_size=192,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=4,
            moe_intermediate_size=64,
            layer_types=(sliding, full, sliding, full),
            max_position_embeddings=1024,
        ),
        vision=None,
        canvas_length=20,
    )

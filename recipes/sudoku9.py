"""9x9 Sudoku from random weights, first stage: the rules.

    gesso train recipes/sudoku9.py --out runs/sudoku9-rules
    gesso train recipes/sudoku9_solve.py --out runs/sudoku9-solve
    gesso train recipes/sudoku9_mend.py --out runs/sudoku9
    gesso eval sudoku9 --model runs/sudoku9/checkpoint --n 500 --rows 16

Small networks are known to guess among nine digits for a long time before they see what a Sudoku
is. Half of the examples are therefore easy ones, where a look along row, column and box is enough
(what few clues alone would have done was not tried). A vocabulary of its own, of little more than
characters, spares the costly part of a step, the products with the embedding.

The shipped run was set to 4,500 steps and cut at 1,000: the learning rate here takes the same
course.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from gesso.config import GenerationConfig, ModelConfig, RopeConfig
from gesso.training.config import EvaluationConfig, ObjectiveConfig, OptimizerConfig, TrainConfig
from recipes import tiny
from recipes.tiny_tokenizer import build_tokenizer, tokenizer_config

PROCESSOR = Path("runs/sudoku9-processor")
VOCAB_SIZE = 384


def recipe() -> TrainConfig:
    if not (PROCESSOR / "tokenizer.json").exists():
        _write_processor()
    embedded = tiny.recipe()
    return replace(
        embedded,
        steps=1000,
        batch_size=32,
        tasks={"sudoku9": 0.5, "sudoku9-easy": 0.5},
        processor=PROCESSOR,
        model=model_config(),
        objective=ObjectiveConfig(causal_prompt=False),
        # Chosen on 64 held-out puzzles that are not the reported ones: a cell that is accepted too
        # soon misleads the rest, and temperatures below 1 make cells look surer than they are.
        generation=GenerationConfig(
            max_new_tokens=96,
            max_denoising_steps=96,
            entropy_bound=0.02,
            temperature_start=1.3,
            temperature_end=1.0,
            eos_token_ids=embedded.generation.eos_token_ids,
        ),
        optimizer=OptimizerConfig(
            method="muon", lr=2e-3, warmup_steps=50, final_lr_share=0.885, ema_decay=0.995
        ),
        evaluation=EvaluationConfig(task="sudoku9", every=250, n=64),
        save_every=250,
    )


def model_config() -> ModelConfig:
    """A grid and its end fill a canvas of 96."""
    shape = tiny.model_config()
    sliding, full = "sliding_attention", "full_attention"
    return replace(
        shape,
        text=replace(
            shape.text,
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=256,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=4,
            moe_intermediate_size=64,
            layer_types=(sliding, sliding, full, sliding, sliding, full),
            sliding_window=256,
            max_position_embeddings=1024,
            full_rope=RopeConfig(theta=1e4, partial=0.5),
        ),
        vision=None,
        canvas_length=96,
    )


def _write_processor() -> None:
    words = ["Sudoku user model system thought"] * 100
    tokenizer = build_tokenizer(words, vocab_size=VOCAB_SIZE)
    PROCESSOR.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(PROCESSOR / "tokenizer.json"))
    (PROCESSOR / "tokenizer_config.json").write_text(
        json.dumps(tokenizer_config(), indent=2) + "\n", encoding="utf-8"
    )
    shutil.copy(tiny.PROCESSOR / "chat_template.jinja", PROCESSOR)

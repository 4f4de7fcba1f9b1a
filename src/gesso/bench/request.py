"""What is asked where weights are random: random prompts, and answers of so many steps."""

from __future__ import annotations

import torch

from gesso.generation.model import DiffusionGemma
from gesso.generation.request import Parameters, Request, make_request


def random_request(
    model: DiffusionGemma, number: int, *, context: int, steps: int, canvases: int
) -> Request:
    """`context` random tokens, others for each number; canvases that take all their steps, and
    stop nowhere."""
    config = model.network.config
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(config.text.vocab_size, (context,), generator=generator)
    parameters = Parameters(
        seed=number,
        max_new_tokens=canvases * config.canvas_length,
        max_denoising_steps=steps,
        adaptive_stop=False,
        verify=False,
        ignore_stop_tokens=True,
    )
    return make_request(ids.tolist(), parameters, model=config, defaults=model.generation)

"""transformers as a contender: its own generate, in the settings that it offers for speed.

The dynamic cache runs as it is; the static cache makes it compile its encoder, decoder and
sampler, which is its fast path. (With a static cache its results are wrong once a prompt reaches
the sliding window; the time is what is compared here.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSamplerConfig,
)

from gesso.bench.contender import Contender


class Transformers:
    def __init__(self, model: Any, *, dtype: str, cache: str | None) -> None:
        self.name = "transformers" if cache is None else f"transformers ({cache} cache, compiled)"
        self.dtype = dtype
        self._model = model
        self._cache = {} if cache is None else {"cache_implementation": cache}

    def generate(self, prompt_ids: Sequence[int], *, steps: int, new_tokens: int) -> int:
        ids = torch.tensor([list(prompt_ids)])
        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            max_new_tokens=new_tokens,
            max_denoising_steps=steps,
            t_min=0.4,
            t_max=0.8,
            sampler_config=EntropyBoundSamplerConfig(entropy_bound=0.1),
            # As good as never: no canvas stops early (0 itself is refused).
            stability_threshold=1,
            confidence_threshold=1e-30,
            pad_token_id=0,
            # An id that no canvas can hold: no answer ends early.
            eos_token_id=[self._model.config.text_config.vocab_size],
            **self._cache,
        )
        return out.sequences.shape[1] - ids.shape[1]


def transformers_contenders(folder: Path, dtypes: Sequence[str]) -> list[Contender]:
    """In each dtype, with and without compilation."""
    contenders: list[Contender] = []
    for name in dtypes:
        dtype = getattr(torch, name)
        for cache in (None, "static"):
            model = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=dtype).eval()
            contenders.append(Transformers(model, dtype=name, cache=cache))
    return contenders

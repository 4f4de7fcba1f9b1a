"""transformers as a contender: its own generate, in the settings that it offers for speed.

The dynamic cache runs as it is; the static cache makes it compile its encoder, decoder and
sampler, which is its fast path. (With a static cache its results are wrong once a prompt reaches
the sliding window; the time is what is compared here.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSamplerConfig,
)

from gesso.bench.contender import Contender, Drafter

_CACHES = (None, "static")  # of which the second is compiled


class _Clock:
    """A streamer: its generate brings each draft to the host, and tells of it."""

    def __init__(self) -> None:
        self.drafts: list[float] = []

    def put_draft(self, value: Tensor) -> None:
        self.drafts.append(time.perf_counter())

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


class Transformers:
    version: str = transformers.__version__

    def __init__(self, model: Any, *, dtype: str, cache: str | None) -> None:
        self.name = "transformers" if cache is None else f"transformers ({cache} cache, compiled)"
        self.dtype = dtype
        self._model = model
        self._cache = {} if cache is None else {"cache_implementation": cache}

    def generate(self, prompt_ids: Sequence[int], *, steps: int, new_tokens: int) -> int:
        ids = self._ids([prompt_ids])
        return self._generate(ids, steps, new_tokens).shape[1] - ids.shape[1]

    def draft_times(
        self, prompts: Sequence[Sequence[int]], *, steps: int, new_tokens: int
    ) -> list[float]:
        clock = _Clock()
        self._generate(self._ids(prompts), steps, new_tokens, streamer=clock)
        return clock.drafts

    def _ids(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(prompt) for prompt in prompts], device=self._model.device)

    def _generate(
        self, ids: Tensor, steps: int, new_tokens: int, *, streamer: _Clock | None = None
    ) -> Tensor:
        """Prompts (B, n) with their answers behind them."""
        found: Tensor = self._model.generate(
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
            streamer=streamer,
            **self._cache,
        ).sequences
        return found


def transformers_contenders(folder: Path, dtypes: Sequence[str]) -> list[Contender]:
    """In each dtype, with and without compilation."""
    contenders: list[Contender] = []
    for name in dtypes:
        dtype = getattr(torch, name)
        for cache in _CACHES:
            model = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=dtype).eval()
            contenders.append(Transformers(model, dtype=name, cache=cache))
    return contenders


def transformers_drafters(
    folder: Path, *, dtype: torch.dtype, device: torch.device, random: bool
) -> list[Drafter]:
    """With and without compilation, of one model: the folder's, or random weights of its shape that
    are made on the device."""
    kind: Any = DiffusionGemmaForBlockDiffusion
    if random:
        with device:
            model = kind._from_config(DiffusionGemmaConfig.from_pretrained(folder), dtype=dtype)
    else:
        model = kind.from_pretrained(folder, dtype=dtype).to(device)
    model.eval().requires_grad_(False)
    name = str(dtype).removeprefix("torch.")
    return [Transformers(model, dtype=name, cache=cache) for cache in _CACHES]

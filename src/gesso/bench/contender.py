"""Whose whole answers are timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gesso.generation.model import DiffusionGemma, load


class Contender(Protocol):
    """Something that answers a prompt of token ids with whole canvases."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(self, prompt_ids: Sequence[int], *, steps: int, new_tokens: int) -> int:
        """Answer and return how many tokens were written."""
        ...


class Gesso:
    def __init__(self, source: str, dtype: str, *, compile: bool = False) -> None:
        self.name = "gesso (compiled)" if compile else "gesso"
        self.dtype = dtype
        self.model: DiffusionGemma = load(source, dtype=dtype, device="cpu", compile=compile)

    def generate(self, prompt_ids: Sequence[int], *, steps: int, new_tokens: int) -> int:
        result = self.model.generate_ids(
            prompt_ids,
            max_new_tokens=new_tokens,
            max_denoising_steps=steps,
            adaptive_stop=False,
            ignore_stop_tokens=True,
        )
        return len(result.token_ids)

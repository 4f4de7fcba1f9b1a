"""Whose answers are timed."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
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


class Drafter(Protocol):
    """Something that answers several prompts at once, and tells of each draft."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def draft_times(
        self, prompts: Sequence[Sequence[int]], *, steps: int, new_tokens: int
    ) -> list[float]:
        """Answer prompts of one length, and return when each step's drafts were there, in
        seconds."""
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
            verify=False,
            ignore_stop_tokens=True,
        )
        return len(result.token_ids)


def peer_module(peer: str) -> ModuleType:
    """ValueError for an unknown peer, or one that is not installed."""
    if peer != "transformers":
        raise ValueError(f"peer: got {peer!r}; known is 'transformers'")
    try:
        from gesso.bench import transformers_peer
    except ImportError as error:
        raise ValueError(
            f"peer: transformers is not installed ({error}); pip install 'gesso[dev]'"
        ) from None
    return transformers_peer


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"

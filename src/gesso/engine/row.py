"""One request at work: its answer so far, its columns, and the canvas that it is at."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from gesso.cache import KVCache
from gesso.diffusion.draws import Draws
from gesso.diffusion.loop import Policy
from gesso.engine.prefix import Prefix
from gesso.generation.answer import Answer
from gesso.generation.request import Request


@dataclass(kw_only=True)
class Row:
    """begun: whether its prompt is encoded, and a canvas at work. policy: of that canvas.
    prefix: what is kept of its columns for others. columns: the most it can come to. finished:
    the canvas before, (1, L), while it is still to be encoded. follows: what the causal pass writes
    after its columns; known where canvases are verified."""

    number: int
    request: Request
    answer: Answer
    draws: Draws
    cache: KVCache
    columns: int
    policy: Policy
    prefix: Prefix = field(default_factory=Prefix)
    canvas: int = 0
    begun: bool = False
    finished: Tensor | None = None
    follows: int | None = None

    @property
    def pending(self) -> tuple[int, ...]:
        """Of the prompt, what is still to be encoded."""
        return self.request.prompt_ids[self.cache.length :]

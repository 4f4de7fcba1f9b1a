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
from gesso.generation.verify import Verification


@dataclass(kw_only=True)
class Row:
    """begun: whether its prompt is encoded, and a canvas at work. policy: of that canvas.
    prefix: what is kept of its columns for others. columns: the most it can come to. finished:
    the canvas before, (1, L), while it is still to be encoded. follows: what the causal pass writes
    after its columns; known where canvases are verified. verification: of the canvas at hand, which
    takes no more steps then. steps: that it took."""

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
    verification: Verification | None = None
    steps: int = 0

    @property
    def denoises(self) -> bool:
        """Whether it takes part in the next step."""
        return self.begun and self.verification is None and self.answer.finish_reason is None

    @property
    def pending(self) -> tuple[int, ...]:
        """Of the prompt, what is still to be encoded."""
        return self.request.prompt_ids[self.cache.length :]

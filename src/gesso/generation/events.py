"""What a caller sees while an answer comes about, and what is left of it at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from gesso.processor import ToolCall

FinishReason = Literal["stop", "length", "time", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """steps and hit_step_cap: one entry a canvas. forwards: denoising passes of this row and
    causal passes that verified it, commits not counted; in autoregressive mode its causal passes.
    Times in seconds from the call, the prompt's encoding included; None where it never came to
    that."""

    prompt_tokens: int
    new_tokens: int
    steps: tuple[int, ...]
    hit_step_cap: tuple[bool, ...]
    forwards: int
    seconds: float
    first_draft_seconds: float | None
    first_commit_seconds: float | None

    @property
    def tokens_per_forward(self) -> float:
        return self.new_tokens / self.forwards if self.forwards else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Wall clock, everything included."""
        return self.new_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A canvas after a step. tokens (L,) int64: its argmax; entropy (L,) in nats; accepted (L,)
    bool: which positions kept their sampled token for the next step."""

    row: int
    canvas: int
    step: int
    tokens: Tensor
    entropy: Tensor
    accepted: Tensor


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A finished canvas, cut at a stop. text: what it adds, never half a character; text that
    could still turn out to be a stop string is held back. steps: those this canvas took. forwards:
    the answer's so far, verifying ones included."""

    row: int
    canvas: int
    token_ids: tuple[int, ...]
    text: str
    steps: int
    forwards: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """A whole answer. token_ids hold the stop token that ended it; text does not."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: Statistics


@dataclass(frozen=True, kw_only=True)
class End:
    """The last event of a row. text: what was held back until now."""

    row: int
    text: str
    result: Result


CanvasEvent = Draft | Commit | End

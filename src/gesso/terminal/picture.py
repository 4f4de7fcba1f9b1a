"""What the live canvas knows at a moment, folded from events. Facts only: canvas.py draws them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gesso.generation.events import CanvasEvent, Commit, Draft


@dataclass(frozen=True, kw_only=True)
class Picture:
    """committed: ids of the finished canvases. tokens, entropy (nats): the canvas in work, empty
    between canvases; before: its tokens a step ago, empty at its first step. canvas, step: counted
    from 0. forwards: those done so far. seconds: the model's own time."""

    committed: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    entropy: tuple[float, ...] = ()
    before: tuple[int, ...] = ()
    canvas: int = 0
    step: int = 0
    forwards: int = 0
    seconds: float = 0.0

    def after(self, event: CanvasEvent, *, seconds: float) -> Picture:
        """The picture once `event` happened, `seconds` after the model began."""
        if isinstance(event, Draft):
            return replace(
                self,
                tokens=tuple(event.tokens.tolist()),
                entropy=tuple(event.entropy.tolist()),
                before=self.tokens,
                canvas=event.canvas,
                step=event.step,
                forwards=self.forwards + 1,
                seconds=seconds,
            )
        if isinstance(event, Commit):
            return replace(
                self,
                committed=self.committed + event.token_ids,
                tokens=(),
                entropy=(),
                before=(),
                canvas=event.canvas,
                forwards=event.forwards,
                seconds=seconds,
            )
        return replace(self, seconds=seconds)

    @property
    def changed(self) -> tuple[bool, ...]:
        """Which positions hold another token than a step ago; none at a canvas's first step."""
        if not self.before:
            return (False,) * len(self.tokens)
        return tuple(new != old for new, old in zip(self.tokens, self.before, strict=True))

    @property
    def tokens_per_forward(self) -> float | None:
        """Of the committed tokens; None while there are none.

        The canvas in work counts with neither its tokens nor its steps.
        """
        done = self.forwards - (self.step + 1 if self.tokens else 0)
        return len(self.committed) / done if self.committed and done else None

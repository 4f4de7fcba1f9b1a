"""The live canvas as text: pure functions of a picture, so that tests need no terminal.

Tokens stand where they are in the canvas, brighter the surer the model is. Lines are folded at the
width, in mid-word, as a terminal folds a long line: a word that still changes then moves no line
but its own, and the finished answer lies where its draft lay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import chop_cells
from rich.text import Text

from gesso.generation.events import Result
from gesso.processor.tokenizer import Tokenizer
from gesso.terminal.picture import Picture
from gesso.terminal.screen import printable

# From sure to unsure; exp(-entropy) is one over the number of tokens the model wavers between.
# Every style keeps its rank on dark and on light grounds: dim blends towards the ground, and the
# grey lies midway between black and white.
_LADDER = ((0.9, ""), (0.5, "dim"), (0.15, "#808080"), (0.0, "#808080 dim"))
_SURE = 0.5
_CHANGED = "#d7875f"
_QUIET = "dim"
_GHOST = "·"
_NEWLINE = "↵"


@dataclass(frozen=True, kw_only=True)
class Painter:
    """ends: ids that stand for no text (stops, padding). limit: most steps a canvas may take;
    None in autoregressive mode, which has no steps."""

    tokenizer: Tokenizer
    ends: frozenset[int]
    limit: int | None

    def frame(self, picture: Picture, *, width: int, height: int, floor: int = 0) -> Text:
        """The whole live region, its status line last; at most `height` lines.

        floor: lines to fill at least, so that the status line never jumps up. Of a text that is
        too long its end is shown.
        """
        lines = fold(self.text(picture), width)[-max(1, height - 2) :]
        blank = [Text("")] * (floor - 1 - len(lines))
        status = self.status(picture)
        status.truncate(width, overflow="ellipsis")
        return Text("\n", no_wrap=True, overflow="crop").join([*lines, *blank, status])

    def text(self, picture: Picture) -> Text:
        """Committed canvases as plain text, then the one in work, token by token."""
        text = Text(printable(self.tokenizer.decode(picture.committed)))
        cells = zip(
            picture.tokens,
            self._spell(picture.tokens),
            picture.entropy,
            picture.changed,
            strict=True,
        )
        for token, spelling, entropy, changed in cells:
            sureness = math.exp(-entropy)
            style = next(style for least, style in _LADDER if sureness >= least)
            if token in self.ends:
                text.append(_GHOST, "#808080 dim")
            elif spelling.strip("\n") == "" and spelling:
                # Lines break where the model is sure; a line that comes and goes is unrest.
                text.append(_NEWLINE * len(spelling), "#808080 dim")
                text.append("\n" * len(spelling) if sureness >= _SURE else "")
            elif changed:
                text.append(spelling, _CHANGED if sureness >= _SURE else f"{_CHANGED} dim")
            else:
                text.append(spelling, style)
        return text

    def status(self, picture: Picture) -> Text:
        """One quiet line: where it stands, and what it cost so far."""
        if not picture.forwards:
            parts = ["reading the prompt"]
        elif self.limit is None:
            parts = [_count(len(picture.committed), "token")]
        else:
            parts = [
                f"canvas {picture.canvas + 1}",
                f"step {picture.step + 1} of at most {self.limit}",
            ]
        if self.limit is not None and picture.tokens_per_forward is not None:
            parts.append(f"{picture.tokens_per_forward:.1f} tokens/forward")
        return Text(" · ".join([*parts, f"{picture.seconds:.1f} s"]), _QUIET)

    def answer(self, result: Result) -> Text:
        """What stays on the screen: reasoning (quiet), text, tool calls, a line of numbers."""
        parts = [Text(printable(result.reasoning), _QUIET)] if result.reasoning else []
        if result.text.strip():
            parts.append(Text(printable(result.text.rstrip("\n"))))
        parts += [Text(printable(f"→ {c.name} {c.arguments}")) for c in result.tool_calls]
        return Text("\n").join([*parts, self.summary(result)])

    def summary(self, result: Result) -> Text:
        """What the answer took; of one that has no tokens, only its time."""
        stats = result.stats
        parts: list[str] = []
        if stats.new_tokens:
            parts = [
                _count(stats.new_tokens, "token"),
                *([] if self.limit is None else [_steps(stats.steps)]),
                f"{stats.tokens_per_forward:.1f} tokens/forward",
                f"{stats.tokens_per_second:,.0f} tokens/s",
            ]
        parts += [f"{stats.seconds:.2f} s", result.finish_reason]
        line = Text(" · ".join(parts), _QUIET)
        if self.limit is not None and any(stats.hit_step_cap):
            line.append(" · ", _QUIET).append("hit the step cap", f"{_CHANGED} dim")
        return line

    def _spell(self, ids: Sequence[int]) -> Iterator[str]:
        """Each token's text. Bytes spell characters together: the first of a run has them all."""
        for is_byte, run in groupby(ids, key=self.tokenizer.byte_ids.__contains__):
            tokens = list(run)
            if is_byte:
                yield printable(self.tokenizer.decode(tokens))
                yield from [""] * (len(tokens) - 1)
            else:
                for token in tokens:
                    yield printable(self.tokenizer.decode([token], skip_special=False))


def fold(text: Text, width: int) -> list[Text]:
    """Lines of at most `width` cells."""
    text.expand_tabs(4)
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        pieces = chop_cells(line.plain, width)
        ends = [sum(map(len, pieces[:i])) for i in range(1, len(pieces))]
        lines.extend(line.divide(ends))
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _steps(steps: Sequence[int]) -> str:
    """Steps a canvas: each by itself while they are few, then their mean."""
    if len(steps) == 1:
        return _count(steps[0], "step")
    if len(steps) <= 6:
        return f"{' + '.join(map(str, steps))} steps"
    return f"{sum(steps) / len(steps):.1f} steps a canvas"

"""One row's answer as it grows: where it ends, what of its text may be shown, its statistics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence

from gesso.generation.events import Commit, End, FinishReason, Result, Statistics
from gesso.generation.request import Request
from gesso.generation.verify import Verification
from gesso.processor import Processor


class Answer:
    """Takes finished canvases and decides where the answer ends."""

    def __init__(self, row: int, request: Request, processor: Processor, started: float) -> None:
        self.row = row
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.forwards = 0
        self._processor = processor
        self._started = started
        self._ids: list[int] = []
        self._text = ""
        self._shown = 0
        self._stopped_by_string = False
        self._steps: list[int] = []
        self._capped: list[bool] = []
        self._first_draft: float | None = None
        self._first_commit: float | None = None

    def saw_draft(self) -> None:
        self.forwards += 1
        if self._first_draft is None:
            self._first_draft = self._elapsed()

    def cancelled(self) -> bool:
        """Whether nobody waits for it any more; the answer then has ended."""
        event = self.request.cancelled
        if event is not None and event.is_set():
            self.finish_reason = "cancelled"
        return self.finish_reason == "cancelled"

    def time_left(self) -> float | None:
        """Seconds of the time budget; None when there is none."""
        budget = self.request.parameters.time_budget
        return None if budget is None else budget - self._elapsed()

    def interrupted(self) -> bool:
        """Whether the row should end now, cancelled or out of time; the answer then has ended."""
        left = self.time_left()
        if not self.cancelled() and left is not None and left <= 0:
            self.finish_reason = "time"
        return self.finish_reason is not None

    def verification(self, draft: Sequence[int], *, first: int) -> Verification:
        """Of a finished canvas, before whose first token the causal pass would write `first`."""
        return Verification(
            draft,
            first=first,
            stop_ids=self.request.stop_ids,
            limit=self.request.config.max_new_tokens - len(self._ids),
        )

    def commit(self, block: Sequence[int], *, canvas: int, steps: int, capped: bool) -> Commit:
        """Append a canvas up to its first stop, or to max_new_tokens.

        capped: whether these were all the steps that it had.

        A canvas finished by the time budget keeps "time" as the reason, also when it holds a stop:
        it was not refined to its end.
        """
        config = self.request.config
        kept = list(block[: config.max_new_tokens - len(self._ids)])
        stop_ids = self.request.stop_ids
        end = next((i for i, token in enumerate(kept) if token in stop_ids), None)
        if end is not None:
            kept = kept[: end + 1]
            self.finish_reason = self.finish_reason or "stop"
        before = len(self._ids)
        self._append(kept)
        self._steps.append(steps)
        self._capped.append(capped)
        if self._first_commit is None:
            self._first_commit = self._elapsed()
        if self.finish_reason is None and len(self._ids) >= config.max_new_tokens:
            self.finish_reason = "length"
        return Commit(
            row=self.row,
            canvas=canvas,
            token_ids=tuple(self._ids[before:]),
            steps=steps,
            text=self._release(held=_held(self._text, self.request.parameters.stop)),
            forwards=self.forwards,
        )

    def end(self) -> End:
        """The whole answer; why it ended must be known by now."""
        assert self.finish_reason is not None
        reply = self._processor.parse(self._ids)
        if not self._stopped_by_string:
            self._text = reply.text[: _first_of(reply.text, self.request.parameters.stop)]
        last = self._release(held=0)
        stats = Statistics(
            prompt_tokens=len(self.request.prompt_ids),
            new_tokens=len(self._ids),
            steps=tuple(self._steps),
            hit_step_cap=tuple(self._capped),
            forwards=self.forwards,
            seconds=self._elapsed(),
            first_draft_seconds=self._first_draft,
            first_commit_seconds=self._first_commit,
        )
        result = Result(
            text=self._text,
            reasoning=reply.reasoning,
            tool_calls=reply.tool_calls,
            token_ids=tuple(self._ids),
            finish_reason=self.finish_reason,
            stats=stats,
        )
        return End(row=self.row, text=last, result=result)

    def _append(self, kept: Sequence[int]) -> None:
        """Add tokens, and cut all that follows from the first stop string on."""
        before, stops = len(self._ids), self.request.parameters.stop
        self._ids += kept
        full = len(self._ids) >= self.request.config.max_new_tokens
        self._text = self._read(len(self._ids), last=full or self.finish_reason is not None)
        at = _first_of(self._text, stops)
        if at is None:
            return
        # The fewest tokens that spell the stop string whole, and settle that they do; all of them
        # at the most.
        fewer = range(before + 1, len(self._ids))
        enough = bisect_left(fewer, True, key=lambda n: _first_of(self._read(n), stops) == at)
        del self._ids[before + 1 + enough :]
        self._text = self._text[:at]
        self._stopped_by_string = True
        self.finish_reason = self.finish_reason or "stop"

    def _read(self, count: int, *, last: bool = False) -> str:
        """The answer's text in the first tokens; unless no other will follow, as far as no later
        token can change it."""
        ids = self._ids[:count]
        if not last:
            ids = ids[: self._processor.settled(ids)]
        return self._processor.parse(ids).text

    def _release(self, *, held: int) -> str:
        """Text not shown yet, without the last `held` characters."""
        end = max(self._shown, len(self._text) - held)
        fresh, self._shown = self._text[self._shown : end], end
        return fresh

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started


def _first_of(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string begins that is whole first: however the text came, in small parts or in
    large ones, that one ended it."""
    found = [(at + len(s), at) for s in stops if (at := text.find(s)) >= 0]
    return min(found)[1] if found else None


def _held(text: str, stops: Sequence[str]) -> int:
    """How many of the last characters could be the beginning of a stop string."""
    return max((n for s in stops for n in range(1, len(s)) if text.endswith(s[:n])), default=0)

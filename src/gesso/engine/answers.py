"""`gesso.load`, and how what it gives answers where kernels run: by an engine of its own."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ParamSpec

from gesso.engine.engine import Engine
from gesso.generation import model as readable
from gesso.generation.events import CanvasEvent, End
from gesso.generation.model import DiffusionGemma
from gesso.generation.request import Request
from gesso.kernels import choice

Given = ParamSpec("Given")

# Rows of the largest batch that is denoised together; more of them take turns.
_MOST_ROWS = 16


class Answers:
    """In place of `generate_events`: the same events, from an engine that all who ask share, in
    whatever threads. It is made for one row, and anew when a larger batch finds it idle."""

    def __init__(
        self, model: DiffusionGemma, *, make: Callable[[DiffusionGemma, int], Engine] | None = None
    ) -> None:
        """make: an engine for so many rows; by default as `Engine` makes it."""
        self._model = model
        self._make = make or (lambda model, rows: Engine(model, max_rows=rows))
        self._engine: Engine | None = None
        self._rows = 0
        self._lock = threading.Lock()
        self._told: dict[int, deque[CanvasEvent]] = {}  # by row, to whom its events go

    def __call__(self, requests: Sequence[Request]) -> Iterator[CanvasEvent]:
        """ValueError before any work for what could never fit the memory."""
        with self._lock:
            engine = self._engine_for(len(requests))
            for request in requests:
                engine.check(request)
        return self._events(requests)

    def _events(self, requests: Sequence[Request]) -> Iterator[CanvasEvent]:
        left = [_Given(request.cancelled) for request in requests]
        own = deque[CanvasEvent]()
        with self._lock:
            engine = self._engine_for(len(requests))
            places = {
                engine.submit_request(replace(request, cancelled=given)): place
                for place, (request, given) in enumerate(zip(requests, left, strict=True))
            }
            self._told |= dict.fromkeys(places, own)
        try:
            ended = 0
            while ended < len(places):
                event = self._next(engine, own)
                ended += isinstance(event, End)
                yield replace(event, row=places[event.row])
        finally:
            # The engine sees it when it goes on: nothing is asked of torch here, which may be gone
            # when an interpreter goes down with an answer that nobody read to its end.
            for given in left:
                given.set()
            for number in places:
                self._told.pop(number, None)

    def _next(self, engine: Engine, own: deque[CanvasEvent]) -> CanvasEvent:
        """The next of one's own events; who waits for it takes the steps for all."""
        while True:
            with self._lock:
                if own:
                    return own.popleft()
                self._step(engine)

    def _step(self, engine: Engine) -> None:
        for event in engine.step():
            if (told := self._told.get(event.row)) is not None:
                told.append(event)

    def _engine_for(self, rows: int) -> Engine:
        wanted = min(rows, _MOST_ROWS)
        if self._engine is not None and not self._told:
            while not self._engine.idle:  # answers that were given up
                self._step(self._engine)
        if self._engine is None or (self._rows < wanted and self._engine.idle):
            self._engine = None  # before there is another
            self._engine, self._rows = self._make(self._model, wanted), wanted
        return self._engine


class _Given(threading.Event):
    """Set by who reads the answer, or through the caller's own event."""

    def __init__(self, other: threading.Event | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or (self._other is not None and self._other.is_set())


def _by_engine(load: Callable[Given, DiffusionGemma]) -> Callable[Given, DiffusionGemma]:
    @functools.wraps(load)
    def loaded(*args: Given.args, **keys: Given.kwargs) -> DiffusionGemma:
        model = load(*args, **keys)
        if choice.has_kernels(model.network.device):
            model.answers = Answers(model)
        return model

    return loaded


load = _by_engine(readable.load)

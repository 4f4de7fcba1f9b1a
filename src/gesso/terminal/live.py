"""Draws an answer while it comes about.

The model works in a thread of its own and never waits for the screen: its events carry the time at
which they happened, and drafts that come faster than an eye can follow are held for a moment when
they are drawn. All times shown are therefore the model's, not the show's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live

from gesso.generation.events import CanvasEvent, Draft, End, Result
from gesso.generation.model import DiffusionGemma, Mode, Prompt
from gesso.terminal.canvas import Painter
from gesso.terminal.picture import Picture

# How often the clock of the status line moves while a slow step is on.
_TICK_SECONDS = 0.1


class _Arrival(NamedTuple):
    seconds: float
    event: CanvasEvent | BaseException


def show(
    model: DiffusionGemma,
    prompt: Prompt,
    *,
    console: Console,
    watch: float,
    mode: Mode = "diffusion",
    **options: Any,
) -> Result:
    """Generate with a live canvas, and leave the answer and one line of numbers on the screen.

    watch: seconds for which each draft stays at least. options: those of `DiffusionGemma.stream`.
    Ctrl-C ends the answer, whose finish_reason is then "cancelled"; a second one is raised.
    """
    cancelled = threading.Event()
    events = model.stream(prompt, mode=mode, cancelled=cancelled, **options)
    painter = _painter(model, mode, options)
    arrivals: SimpleQueue[_Arrival] = SimpleQueue()
    worker = threading.Thread(target=_work, args=(events, arrivals), daemon=True)
    worker.start()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            result = _play(arrivals, _Screen(live, painter), cancelled, watch)
    finally:
        cancelled.set()
        worker.join()
    console.print(painter.answer(result), soft_wrap=True)
    return result


def _painter(model: DiffusionGemma, mode: Mode, options: dict[str, Any]) -> Painter:
    generation = model.generation
    limit = options.get("max_denoising_steps") or generation.max_denoising_steps
    return Painter(
        tokenizer=model.processor.tokenizer,
        ends=frozenset({*generation.eos_token_ids, generation.pad_token_id}),
        limit=limit if mode == "diffusion" else None,
    )


def _work(events: Iterator[CanvasEvent], arrivals: SimpleQueue[_Arrival]) -> None:
    started = time.perf_counter()
    try:
        for event in events:
            arrivals.put(_Arrival(time.perf_counter() - started, event))
    except BaseException as error:
        arrivals.put(_Arrival(time.perf_counter() - started, error))


class _Screen:
    """The live region: draws pictures and never shrinks until it is gone."""

    def __init__(self, live: Live, painter: Painter) -> None:
        self._live = live
        self._painter = painter
        self._lines = 0

    def draw(self, picture: Picture) -> None:
        width, height = self._live.console.size
        frame = self._painter.frame(
            picture, width=width, height=height, floor=min(self._lines, height - 1)
        )
        self._lines = max(self._lines, frame.plain.count("\n") + 1)
        self._live.update(frame, refresh=True)


def _play(
    arrivals: SimpleQueue[_Arrival], screen: _Screen, cancelled: threading.Event, watch: float
) -> Result:
    picture = Picture()
    started = time.perf_counter()
    while True:
        try:
            try:
                seconds, event = arrivals.get(timeout=_TICK_SECONDS)
            except Empty:
                screen.draw(replace(picture, seconds=time.perf_counter() - started))
                continue
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, End):
                return event.result
            picture = picture.after(event, seconds=seconds)
            if not cancelled.is_set():
                screen.draw(picture)
                time.sleep(watch if isinstance(event, Draft) else 0.0)
        except KeyboardInterrupt:
            if cancelled.is_set():
                raise
            cancelled.set()

"""Requests that come and go: what the reference loop says of each alone, what an engine says."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from gesso.engine import Engine
from gesso.generation.events import CanvasEvent, Commit, Draft
from gesso.generation.model import DiffusionGemma

L = 5  # the canvas length of the small network, whose window is 6 and whose context is 512


def plain(event: CanvasEvent) -> tuple[Any, ...]:
    """An event without its row and its times."""
    if isinstance(event, Draft):
        kept = (event.canvas, event.step, event.tokens.tolist(), event.accepted.tolist())
        return ("draft", *kept)
    if isinstance(event, Commit):
        return ("commit", event.canvas, event.token_ids, event.text, event.steps)
    result, stats = event.result, event.result.stats
    kept = (result.text, result.token_ids, result.finish_reason, stats.steps, stats.hit_step_cap)
    return ("end", event.text, *kept, stats.forwards, stats.prompt_tokens, stats.new_tokens)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request, when it comes, and after how many drafts it is given up."""

    words: Sequence[int]
    arrives: int
    gives_up: int | None
    keys: dict[str, Any]

    @property
    def prompt(self) -> str:
        return "<bos>" + " ".join("abc"[i] for i in self.words)


def alone(dg: DiffusionGemma, plan: Plan) -> list[tuple[Any, ...]]:
    """What the reference loop says."""
    cancelled, drafts, seen = threading.Event(), 0, []
    for event in dg.stream(plan.prompt, raw=True, cancelled=cancelled, **plan.keys):
        seen.append(plain(event))
        drafts += isinstance(event, Draft)
        if drafts == plan.gives_up:
            cancelled.set()
    return seen


def together(engine: Engine, plans: Sequence[Plan]) -> list[list[tuple[Any, ...]]]:
    """What the engine says, each request from its arrival on."""
    flags = [threading.Event() for _ in plans]
    numbers: dict[int, int] = {}
    seen: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    drafts: dict[int, int] = defaultdict(int)
    for now in range(10_000):
        for i, plan in enumerate(plans):
            if plan.arrives == now:
                number = engine.submit(plan.prompt, raw=True, cancelled=flags[i], **plan.keys)
                numbers[number] = i
        for event in engine.step():
            i = numbers[event.row]
            seen[i].append(plain(event))
            drafts[i] += isinstance(event, Draft)
            if drafts[i] == plans[i].gives_up:
                flags[i].set()
        if engine.idle and len(numbers) == len(plans):
            return [seen[i] for i in range(len(plans))]
    raise AssertionError("requests that never end")


# Prompts of few words, so that many begin alike; some longer than the window and than a chunk.
words = st.lists(st.integers(0, 2), min_size=1, max_size=4) | st.builds(
    lambda n, end: [0, 1] * n + end,
    st.integers(1, 20),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
keys = st.fixed_dictionaries(
    dict(
        seed=st.integers(0, 2**40),
        max_new_tokens=st.integers(1, 3 * L),
        canvas_length=st.sampled_from([L, L, 2]),
        max_denoising_steps=st.integers(1, 3),
        entropy_bound=st.sampled_from([0.1, 5.0, 40.0]),
        temperature_start=st.sampled_from([0.8, 2.0]),
        # Loose enough that the stop rule comes true now and then.
        confidence=st.sampled_from([0.005, 7.0]),
        stability=st.integers(0, 2),
        ignore_stop_tokens=st.booleans(),
        stop=st.sampled_from([(), ("e",), ("a", "in")]),
        verify=st.booleans(),
    )
)
plans = st.builds(
    Plan,
    words=words,
    arrives=st.integers(0, 12),
    gives_up=st.none() | st.none() | st.integers(1, 6),
    keys=keys,
)

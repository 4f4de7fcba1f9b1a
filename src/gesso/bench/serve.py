"""Many users of one engine: throughput, and what each of them waits, by how many they are.

A closed loop: each of so many users sends its next request when its last one is answered. Every
request is a held-out example of a task, answered as far as the model wants, so that canvases end at
different steps; random weights, which never settle, are asked random ids, and take all their steps.
The levels take turns within a round: what disturbs the machine disturbs all.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from gesso.bench.cap import capped, parse_cap
from gesso.bench.request import random_request
from gesso.bench.subject import Subject
from gesso.engine import Engine
from gesso.environment import environment, pick_device
from gesso.generation.events import End, Result
from gesso.generation.model import DiffusionGemma
from gesso.generation.request import Request
from gesso.tasks import get_task

_USERS = (1, 2, 4, 8, 16)
_RANDOM = dict(context=1024, steps=16, canvases=4)


def bench_serve(
    subject: Subject,
    *,
    users: Sequence[int] = _USERS,
    requests: int = 48,
    rounds: int = 3,
    threads: int | None = None,
    task: str = "extract",
    context: int | None = None,
    steps: int | None = None,
    canvases: int | None = None,
    cap: str | None = None,
    compile: bool | Literal["auto"] = "auto",
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: "levels", one for each number of users.

    requests: answered at each level in every round, the same ones. context, steps, canvases: of
    random requests, which random weights are asked (by default 1,024 tokens, 16 and 4), and a
    checkpoint where one of them is given. cap: of a GPU's memory, as "18GB", for all that torch
    takes once the weights are there; the engine plans with it. compile: as in `load`. peak_bytes:
    of all that torch took, on a GPU. Latencies are in seconds, from a request's submission to its
    end. slowdown: the median latency over that of the fewest users. seconds_per_step: a request's
    latency over its steps, whose percentiles lie close together where nobody is served worse than
    the others. ValueError for a number below 1.
    """
    given = dict(context=context, steps=steps, canvases=canvases)
    asked = {name: value for name, value in given.items() if value is not None}
    for name, value in (dict(requests=requests, rounds=rounds, users=min(users)) | asked).items():
        if value < 1:
            raise ValueError(f"{name}: got {value}; expected at least 1")
    if threads is not None:
        torch.set_num_threads(threads)
    limit = None if cap is None else parse_cap(cap, pick_device(subject.device))
    model = subject.load(compile=compile)
    device = model.network.device
    amounts = _RANDOM | asked if subject.random or asked else None
    asking = _random(model, requests, amounts) if amounts else _examples(model, requests, task)
    levels: dict[int, list[_Pass]] = {count: [] for count in users}
    with capped(device, limit):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        engine = Engine(model, max_rows=max(users), max_memory=limit)
        for count in users:
            _serve(engine, asking[: 2 * count], count)  # warm, and not counted
        for done in range(rounds):
            for count, passes in levels.items():
                passes.append(_serve(engine, asking, count))
            on_round(done + 1, rounds)
    rows = [_row(count, passes) for count, passes in sorted(levels.items())]
    for row in rows:
        row["slowdown"] = row["latency_p50"] / rows[0]["latency_p50"]
    return {
        "bench": "serve",
        **subject.about(model.network),
        "task": None if amounts else task,
        **(amounts or {}),
        "compiled": model.network.compiled is not None,
        "requests": requests,
        "rounds": rounds,
        "memory": str(engine.memory),
        "cap_bytes": limit,
        "peak_bytes": torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        "levels": rows,
        "environment": environment(),
    }


def _examples(model: DiffusionGemma, count: int, task: str) -> list[Request]:
    known = get_task(task)
    split = next(name for name in known.splits if name != "train")
    examples = itertools.islice(known.examples(split=split, seed=0), count)
    return [model.request(example.prompt, {}) for example in examples]


def _random(model: DiffusionGemma, count: int, amounts: Mapping[str, int]) -> list[Request]:
    return [random_request(model, number, **amounts) for number in range(count)]


class _Pass(NamedTuple):
    """Over all requests, in their order."""

    results: list[Result]
    seconds: float


def _serve(engine: Engine, requests: Sequence[Request], users: int) -> _Pass:
    """By an engine at rest, which has forgotten what it was asked before."""
    engine.prefixes.shrink(0)
    waiting = list(requests)[::-1]
    results: dict[int, Result] = {}
    started = time.perf_counter()
    for _ in range(min(users, len(waiting))):
        engine.submit_request(waiting.pop())
    for event in engine.run():
        if isinstance(event, End):
            results[event.row] = event.result
            if waiting:
                engine.submit_request(waiting.pop())
    seconds = time.perf_counter() - started
    return _Pass([result for _, result in sorted(results.items())], seconds)


def _row(users: int, passes: Sequence[_Pass]) -> dict[str, Any]:
    tokens = sum(result.stats.new_tokens for result in passes[0].results)
    stats = [result.stats for one in passes for result in one.results]
    latencies = [s.seconds for s in stats]
    # Steps differ from request to request; the time of one does not, if all are served alike.
    paces = [s.seconds / s.forwards for s in stats]
    return {
        "users": users,
        "tokens_per_second_median": tokens / statistics.median(one.seconds for one in passes),
        "tokens_per_second_all": [tokens / one.seconds for one in passes],
        "latency_p50": _percentile(latencies, 50),
        "latency_p99": _percentile(latencies, 99),
        "first_draft_p50": _percentile([s.first_draft_seconds or 0.0 for s in stats], 50),
        "first_draft_p99": _percentile([s.first_draft_seconds or 0.0 for s in stats], 99),
        "seconds_per_step_p50": _percentile(paces, 50),
        "seconds_per_step_p99": _percentile(paces, 99),
    }


def _percentile(values: Sequence[float], share: int) -> float:
    """The smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-share * len(ordered) // 100) - 1)]

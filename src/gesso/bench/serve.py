"""Many users of one engine: throughput, and what each of them waits, by how many they are.

A closed loop: each of so many users sends its next request when its last one is answered. Every
request is a held-out example of a task, answered as far as the model wants, so that canvases end at
different steps. The levels take turns within a round: what disturbs the machine disturbs all.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch

from gesso.engine import Engine
from gesso.environment import environment
from gesso.generation.events import End, Result
from gesso.generation.model import Prompt, load
from gesso.tasks import get_task

_USERS = (1, 2, 4, 8, 16)


def bench_serve(
    source: str,
    *,
    users: Sequence[int] = _USERS,
    requests: int = 48,
    rounds: int = 3,
    threads: int | None = None,
    task: str = "extract",
    compile: bool | Literal["auto"] = "auto",
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: "levels", one for each number of users.

    requests: answered at each level in every round, the same ones. compile: as in `load`. Latencies
    are in seconds, from a request's submission to its end. slowdown: the median latency over that
    of the fewest users. seconds_per_step: a request's latency over its steps, whose percentiles lie
    close together where nobody is served worse than the others. ValueError for a number below 1.
    """
    for name, value in (("requests", requests), ("rounds", rounds), ("users", min(users))):
        if value < 1:
            raise ValueError(f"{name}: got {value}; expected at least 1")
    if threads is not None:
        torch.set_num_threads(threads)
    model = load(source, compile=compile)
    known = get_task(task)
    split = next(name for name in known.splits if name != "train")
    examples = itertools.islice(known.examples(split=split, seed=0), requests)
    prompts = [example.prompt for example in examples]
    engines = {count: Engine(model, max_rows=count) for count in users}
    for count, engine in engines.items():
        _serve(engine, prompts[: 2 * count], count)  # warm, and not counted
    levels: dict[int, list[_Pass]] = {count: [] for count in users}
    for done in range(rounds):
        for count, passes in levels.items():
            passes.append(_serve(engines[count], prompts, count))
        on_round(done + 1, rounds)
    rows = [_row(count, passes) for count, passes in sorted(levels.items())]
    for row in rows:
        row["slowdown"] = row["latency_p50"] / rows[0]["latency_p50"]
    return {
        "bench": "serve",
        "model": str(source),
        "task": task,
        "compiled": model.network.compiled is not None,
        "requests": requests,
        "rounds": rounds,
        "memory": str(engines[max(users)].memory),
        "levels": rows,
        "environment": environment(),
    }


class _Pass(NamedTuple):
    """Over all requests, in their order."""

    results: list[Result]
    seconds: float


def _serve(engine: Engine, prompts: Sequence[Prompt], users: int) -> _Pass:
    """By an engine at rest, which has forgotten what it was asked before."""
    engine.prefixes.shrink(0)
    waiting = list(prompts)[::-1]
    results: dict[int, Result] = {}
    started = time.perf_counter()
    for _ in range(min(users, len(waiting))):
        engine.submit(waiting.pop())
    for event in engine.run():
        if isinstance(event, End):
            results[event.row] = event.result
            if waiting:
                engine.submit(waiting.pop())
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

"""Answers a task's held-out examples one by one and reports accuracy beside its cost.

One request at a time, as a single user of a local model would send them, in every mode on the
same examples: what one mode is faster by is then what that user sees.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gesso.environment import environment
from gesso.generation.events import Result
from gesso.generation.model import DiffusionGemma, Mode
from gesso.tasks import Example, Task

Watch = Callable[[str, str, int, int], None]


def evaluate(
    model: DiffusionGemma,
    task: Task,
    *,
    n: int,
    seed: int = 0,
    splits: Sequence[str] | None = None,
    modes: Sequence[Mode] = ("diffusion", "autoregressive"),
    on_example: Watch = lambda mode, split, done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: one entry of "runs" for each mode and split.

    n: examples of each split, drawn by `seed`; splits: by default all but "train". Shares are
    between 0 and 1, times in seconds. on_example(mode, split, done, total) is called after each.
    ValueError for an unknown split or n below 1.
    """
    if n < 1:
        raise ValueError(f"n: got {n}; expected at least 1")
    chosen = list(splits or (name for name in task.splits if name != "train"))
    for split in chosen:
        if split not in task.splits:
            raise ValueError(f"split: got {split!r}; {task.name} has {', '.join(task.splits)}")
    runs = []
    for split in chosen:
        examples = list(itertools.islice(task.examples(split=split, seed=seed), n))
        for mode in modes:
            runs.append(_run(model, task, examples, split, mode, on_example))
    return {
        "task": task.name,
        "n": n,
        "seed": seed,
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "runs": runs,
        "environment": environment(),
    }


def _run(
    model: DiffusionGemma,
    task: Task,
    examples: Sequence[Example],
    split: str,
    mode: Mode,
    on_example: Watch,
) -> dict[str, Any]:
    verdicts: list[Mapping[str, float]] = []
    results: list[Result] = []
    started = time.perf_counter()
    for done, example in enumerate(examples, 1):
        result = model.generate(example.prompt, mode=mode)
        results.append(result)
        verdicts.append(task.verdict(example, result.text))
        on_example(mode, split, done, len(examples))
    seconds = time.perf_counter() - started
    return {
        "mode": mode,
        "split": split,
        "about": task.splits[split],
        "n": len(examples),
        **_accuracy(examples, verdicts),
        "seconds": seconds,
        "examples_per_second": len(examples) / seconds,
        **_cost(results, seconds),
    }


def _accuracy(
    examples: Sequence[Example], verdicts: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    by_kind: dict[str, list[float]] = defaultdict(list)
    for example, verdict in zip(examples, verdicts, strict=True):
        if "kind" in example.info:
            by_kind[example.info["kind"]].append(verdict["exact"])
    shares = {name: _mean([v[name] for v in verdicts]) for name in verdicts[0]}
    return {
        "exact": shares["exact"],
        "verdicts": shares,
        "by": {
            kind: {"n": len(hits), "exact": _mean(hits)} for kind, hits in sorted(by_kind.items())
        },
    }


def _cost(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    stats = [result.stats for result in results]
    tokens, forwards = sum(s.new_tokens for s in stats), sum(s.forwards for s in stats)
    steps = [count for s in stats for count in s.steps]
    return {
        "steps_per_canvas": _mean(steps),
        "steps_histogram": dict(sorted(Counter(steps).items())),
        "canvases": _mean([len(s.steps) for s in stats]),
        "tokens_per_forward": tokens / forwards,
        "tokens_per_second": tokens / seconds,
        "hit_step_cap": _mean([capped for s in stats for capped in s.hit_step_cap]),
        "finish_reasons": dict(Counter(result.finish_reason for result in results)),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

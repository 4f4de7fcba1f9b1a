"""Answers a task's held-out examples and reports accuracy beside its cost.

By default one request at a time, as a single user of a local model would send them, in every mode
on the same examples: what one mode is faster by is then what that user sees. Several rows at once
give the same answers sooner.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from gesso.engine import Engine
from gesso.environment import environment
from gesso.generation.events import Result
from gesso.generation.model import DiffusionGemma, Prompt
from gesso.tasks import Example, Task

Watch = Callable[[str, str, int, int], None]
# Canvases alone; canvases as drafts of what the causal pass writes; that pass, token by token.
EvaluationMode = Literal["diffusion", "verified", "autoregressive"]
MODES: tuple[EvaluationMode, ...] = get_args(EvaluationMode)


def evaluate(
    model: DiffusionGemma,
    task: Task,
    *,
    n: int,
    seed: int = 0,
    splits: Sequence[str] | None = None,
    modes: Sequence[EvaluationMode] = MODES,
    rows: int = 1,
    on_example: Watch = lambda mode, split, done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: one entry of "runs" for each mode and split.

    n: examples of each split, drawn by `seed`; splits: by default all but "train". Shares are
    between 0 and 1, times in seconds. rows: how many canvases are denoised together; what is
    written left to right is not. on_example(mode, split, done, total) is called after each.
    ValueError for an unknown split or n below 1.
    """
    for name, value in (("n", n), ("rows", rows)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; expected at least 1")
    chosen = list(dict.fromkeys(splits or (name for name in task.splits if name != "train")))
    for split in chosen:
        if split not in task.splits:
            raise ValueError(f"split: got {split!r}; {task.name} has {', '.join(task.splits)}")
    runs = []
    for split in chosen:
        examples = list(itertools.islice(task.examples(split=split, seed=seed), n))
        _check(model, task, examples)
        for mode in dict.fromkeys(modes):
            runs.append(_run(model, task, examples, split, mode, rows, on_example))
    return {
        "task": task.name,
        "n": n,
        "seed": seed,
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "runs": runs,
        "environment": environment(),
    }


def _check(model: DiffusionGemma, task: Task, examples: Sequence[Example]) -> None:
    """ValueError, by number, for one that cannot be asked; before any is."""
    for number, example in enumerate(examples, 1):
        try:
            model.request(example.prompt, {})
        except ValueError as error:
            line = example.info.get("line")
            which = f"example {number}" if line is None else f"line {line}"
            raise ValueError(f"{task.name}: {which}: {error}") from None


def _run(
    model: DiffusionGemma,
    task: Task,
    examples: Sequence[Example],
    split: str,
    mode: EvaluationMode,
    rows: int,
    on_example: Watch,
) -> dict[str, Any]:
    found: dict[int, Result] = {}
    prompts = [example.prompt for example in examples]
    started = time.perf_counter()
    for place, result in _answers(model, prompts, mode, rows):
        found[place] = result
        on_example(mode, split, len(found), len(examples))
    seconds = time.perf_counter() - started
    results = [found[place] for place in range(len(examples))]
    verdicts = [task.verdict(e, r.text) for e, r in zip(examples, results, strict=True)]
    return {
        "mode": mode,
        "split": split,
        "rows": 1 if mode == "autoregressive" else rows,
        "about": task.splits[split],
        "n": len(examples),
        **_accuracy(examples, verdicts),
        "seconds": seconds,
        "examples_per_second": len(examples) / seconds,
        **_cost(results, seconds),
    }


def _answers(
    model: DiffusionGemma, prompts: Sequence[Prompt], mode: EvaluationMode, rows: int
) -> Iterator[tuple[int, Result]]:
    """(place, answer) in the order in which they come."""
    if mode == "autoregressive":
        for place, prompt in enumerate(prompts):
            yield place, model.generate(prompt, mode=mode)
    else:
        yield from Engine(model, max_rows=rows).answers(prompts, verify=mode == "verified")


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
        "forwards": _mean([s.forwards for s in stats]),
        "tokens_per_forward": tokens / forwards,
        "tokens_per_second": tokens / seconds,
        "hit_step_cap": _mean([capped for s in stats for capped in s.hit_step_cap]),
        "finish_reasons": dict(Counter(result.finish_reason for result in results)),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

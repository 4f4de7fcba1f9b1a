"""`bench_step` at several numbers of rows, lengths of context or steps a canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from gesso.bench.step import measure_step
from gesso.bench.subject import Subject
from gesso.bench.work import Work

Varied = Literal["rows", "context", "steps"]


def bench_sweep(
    subject: Subject,
    work: Work,
    *,
    vary: Varied,
    values: Sequence[int],
    threads: int | None = None,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: "points", a report of `bench_step` for each value, of one
    network.

    on_round(points done, points). ValueError for a name that cannot be varied, or no values.
    """
    if vary not in (known := get_args(Varied)):
        raise ValueError(f"vary: got {vary!r}; expected one of {', '.join(known)}")
    if not values:
        raise ValueError("values: got none; give one or more numbers")
    works = [replace(work, **{vary: value}) for value in values]
    if threads is not None:
        torch.set_num_threads(threads)
    network = subject.build()
    points = []
    for each in works:
        points.append(measure_step(subject, network, each))
        on_round(len(points), len(works))
    return {"bench": "sweep", "vary": vary, "points": points}

"""`bench_step` at several numbers of rows, lengths of context or steps a canvas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from gesso.bench.step import bench_step

Varied = Literal["rows", "context", "steps"]


def bench_sweep(
    source: str,
    *,
    vary: Varied,
    values: Sequence[int],
    on_round: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> dict[str, Any]:
    """A report that serialises to JSON: "points", a report of `bench_step` for each value.

    on_round(points done, points). ValueError for a name that cannot be varied, or no values.
    """
    if vary not in (known := get_args(Varied)):
        raise ValueError(f"vary: got {vary!r}; expected one of {', '.join(known)}")
    if not values:
        raise ValueError("values: got none; give one or more numbers")
    points = []
    for value in values:
        points.append(bench_step(source, **options | {vary: value}))
        on_round(len(points), len(values))
    return {"bench": "sweep", "vary": vary, "points": points}

"""A picture of a report: throughput, and what a user waits, over users, rows, context or steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gesso.files import replacing


class _Panel(NamedTuple):
    about: str
    curves: Mapping[str, Sequence[float]]


def plot_report(report: Mapping[str, Any], path: Path) -> bool:
    """Write the picture (PNG). False for a report without curves, or without matplotlib."""
    if report["bench"] == "serve":
        rows, along, about = report["levels"], "users", "users at once"
        panels = [
            _Panel("tokens a second", {"": _column(rows, "tokens_per_second_median")}),
            _Panel(
                "latency (ms)",
                {name: _column(rows, f"latency_{name}", 1e3) for name in ("p50", "p99")},
            ),
        ]
    elif report["bench"] == "sweep":
        rows, along = report["points"], report["vary"]
        about = {"rows": "rows", "context": "tokens of context", "steps": "steps a canvas"}[along]
        panels = [
            _Panel("tokens a second", {"": _column(rows, "tokens_per_second")}),
            _Panel(
                "ms a step",
                {"measured": _column(rows, "ms_per_step"), "floor": _column(rows, "floor_ms")},
            ),
        ]
    else:
        return False
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    for axes, panel in zip(figure.subplots(2, 1, sharex=True), panels, strict=True):
        for name, values in panel.curves.items():
            axes.plot(_column(rows, along), values, marker="o", markersize=3, label=name)
        axes.set(ylabel=panel.about, ylim=(0, None))
        if len(panel.curves) > 1:
            axes.legend(frameon=False)
    axes.set_xscale("log", base=2)
    axes.set_xticks(_column(rows, along), [f"{row[along]:,}" for row in rows])
    axes.minorticks_off()
    axes.set(xlabel=about)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return True


def _column(rows: Sequence[Mapping[str, Any]], name: str, scale: float = 1) -> list[float]:
    return [row[name] * scale for row in rows]

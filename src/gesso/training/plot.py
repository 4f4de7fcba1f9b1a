"""A picture of a run: losses, and accuracy where it was judged, over steps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from gesso.files import replacing
from gesso.training.logs import read_log
from gesso.training.run_folder import JUDGEMENTS, LOG


def plot_run(folder: Path) -> None:
    """Write `progress.png` from the run's logs; without matplotlib, or a log, do nothing."""
    losses = read_log(folder / LOG)
    if not losses or importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    judged = read_log(folder / JUDGEMENTS)
    figure = Figure(figsize=(7, 3 if not judged else 5), layout="constrained")
    panels = figure.subplots(1 + bool(judged), 1, sharex=True, squeeze=False)[:, 0]
    for name in ("denoise", "causal"):
        panels[0].plot(*_curve(losses, name), label=name)
    panels[0].set(ylabel="loss (nats a token)", yscale="log")
    panels[0].legend(frameon=False)
    if judged:
        panels[1].plot(*_curve(judged, "exact"), marker="o", markersize=3)
        panels[1].set(ylabel="exact answers", ylim=(-0.02, 1.02))
    panels[-1].set(xlabel="step")
    with replacing(folder / "progress.png") as path:
        figure.savefig(path, dpi=110)


def _curve(lines: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    # A loss that is not trained is 0, and has no place on a logarithm.
    kept = [line for line in lines if line[name] > 0 or name == "exact"]
    return [line["step"] for line in kept], [line[name] for line in kept]

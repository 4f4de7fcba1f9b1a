"""A run's logs: files of JSON lines, each with the step that it tells of; for TensorBoard too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gesso.files import replacing


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines; none when there is no file."""
    if not path.exists():
        return []
    # A run that was killed may have left half a line at the end.
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def truncate_log(path: Path, steps: int) -> list[dict[str, Any]]:
    """Drop the lines of steps that will be run again; gives the others."""
    if not path.exists():
        return []
    kept = [line for line in read_log(path) if line["step"] <= steps]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept


def summary_writer() -> type[Any]:
    """TensorBoard's. ValueError when it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "tensorboard: it is not installed; pip install gesso[tensorboard], or leave it out"
        ) from None
    writer: type[Any] = SummaryWriter
    return writer


class Board:
    """The same lines as curves for TensorBoard, an optional dependency."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Curves go on after `step`; what an earlier run drew beyond it is hidden."""
        self._writer = summary_writer()(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

"""A run's folder: what the files in it are called, and whether a run may begin there."""

from __future__ import annotations

from pathlib import Path

LOG = "log.jsonl"
JUDGEMENTS = "accuracy.jsonl"
STATE = "state.safetensors"
CHECKPOINT = "checkpoint"
ADAPTER = "adapter"
# Before the name of either, for what was judged best.
BEST = "best-"


def holds_run(folder: Path) -> bool:
    """Whether there is a state to continue from."""
    return (folder / STATE).exists()


def check_folder(folder: Path) -> None:
    """ValueError: it is a file, or holds what a run made and not the state to continue from."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give the name of a folder")
    # A log alone is of a run that ended before it saved anything.
    names = [prefix + name for prefix in ("", BEST) for name in (CHECKPOINT, ADAPTER)]
    left = [name for name in names if (folder / name).is_dir()]
    if left and not holds_run(folder):
        raise ValueError(
            f"{folder}: holds {', '.join(left)} of a run whose {STATE} is gone, and training "
            "overwrites nothing; give another folder, or remove this one"
        )

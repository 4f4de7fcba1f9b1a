"""Tasks: sources of examples with a judge, found by name; a JSONL file is one too."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from gesso.tasks.brackets import BracketsTask
from gesso.tasks.countdown import CountdownTask
from gesso.tasks.extract import ExtractTask
from gesso.tasks.file import FileTask
from gesso.tasks.infill import InfillTask
from gesso.tasks.sudoku import SudokuTask
from gesso.tasks.task import Example, Task

__all__ = ["Example", "Task", "get_task"]

_TASKS: dict[str, Callable[[], Task]] = {
    "brackets": BracketsTask,
    "countdown": CountdownTask,
    "extract": ExtractTask,
    "infill": InfillTask,
    "infill-body": partial(InfillTask, "infill-body", kinds=("body",), suffix=False),
    "infill-line": partial(InfillTask, "infill-line", kinds=("line",)),
    "infill-prefix": partial(InfillTask, "infill-prefix", kinds=("line",), suffix=False),
    "sudoku4": partial(SudokuTask, 4),
    "sudoku6": partial(SudokuTask, 6),
    "sudoku9": partial(SudokuTask, 9),
    "sudoku9-easy": partial(SudokuTask, 9, easy=True),
}


def get_task(name: str) -> Task:
    """The task of that name, or of a JSONL file. ValueError: no such task, or a bad file."""
    if name.endswith(".jsonl"):
        return FileTask(Path(name))
    if name not in _TASKS:
        known = ", ".join(sorted(_TASKS))
        raise ValueError(f"unknown task {name!r}; known: {known}, or a file of examples.jsonl")
    return _TASKS[name]()

"""Tasks: sources of examples with a judge, found by name."""

from collections.abc import Callable
from functools import partial

from gesso.tasks.brackets import BracketsTask
from gesso.tasks.countdown import CountdownTask
from gesso.tasks.extract import ExtractTask
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
    """The task of that name. ValueError: no such task."""
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(sorted(_TASKS))}")
    return _TASKS[name]()

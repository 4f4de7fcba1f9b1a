"""Tasks: sources of examples with a judge, found by name."""

from collections.abc import Callable

from gesso.tasks.extract import ExtractTask
from gesso.tasks.task import Example, Task

__all__ = ["Example", "Task", "get_task"]

_TASKS: dict[str, Callable[[], Task]] = {"extract": ExtractTask}


def get_task(name: str) -> Task:
    """The task of that name. ValueError: no such task."""
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(sorted(_TASKS))}")
    return _TASKS[name]()

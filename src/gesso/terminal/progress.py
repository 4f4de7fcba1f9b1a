"""Progress bars of training and evaluation, on stderr; silent where nobody is watching."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gesso.terminal.screen import console_for, is_terminal

if TYPE_CHECKING:
    from gesso.training.trainer import StepLog


class _Bar:
    """A rich progress bar with fields of its own, as a context manager."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._progress = Progress(
            *columns,
            console=console_for(sys.stderr),
            disable=not is_terminal(sys.stderr),
            refresh_per_second=4,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class TrainingBar(_Bar):
    """Steps, losses in nats a token, speed, elapsed and remaining time."""

    def __init__(self, *, done: int, total: int) -> None:
        super().__init__(
            TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("", completed=done, total=total, numbers="")

    def step(self, log: StepLog) -> None:
        self._progress.update(
            self._task,
            completed=log.step,
            numbers=f"loss {log.loss:.3f} [dim](denoise {log.denoise:.3f}, causal "
            f"{log.causal:.3f}) · {log.examples_per_second:.0f} examples/s[/]",
        )


class Waiting(_Bar):
    """For work that cannot say how far it is: what it is, and how long it has taken."""

    def __init__(self, what: str) -> None:
        super().__init__(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
        )
        self._progress.add_task(what, total=None)

    def __exit__(self, *how: Any) -> None:
        self._progress.update(self._progress.task_ids[0], visible=False)
        super().__exit__(*how)


class CountBar(_Bar):
    """One bar for each named stretch of work, made when the stretch begins."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
        )

    def step(self, name: str, done: int, total: int) -> None:
        known = {task.description: task.id for task in self._progress.tasks}
        if name not in known:
            known[name] = self._progress.add_task(name, total=total)
        self._progress.update(known[name], completed=done)

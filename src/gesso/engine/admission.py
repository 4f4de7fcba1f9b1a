"""Who may enter: the requests that wait, and what those at work can come to need of the memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from typing import NamedTuple

from gesso.engine.memory import MemoryPlan
from gesso.engine.row import Row
from gesso.engine.stepper import Stepper
from gesso.generation.answer import Answer
from gesso.generation.request import Request
from gesso.model.network import Network


class Waiting(NamedTuple):
    """columns: the most that the request can come to."""

    number: int
    request: Request
    answer: Answer
    columns: int


class Admission:
    """waiting: in the order of arrival."""

    def __init__(self, network: Network, stepper: Stepper, memory: MemoryPlan) -> None:
        self.waiting: deque[Waiting] = deque()
        self._network = network
        self._stepper = stepper
        self._room = memory.room

    def check(self, request: Request) -> None:
        """ValueError for what could never fit."""
        needed = self.bytes([_columns(request)])
        if needed > self._room:
            raise ValueError(
                f"the request needs {needed / 1e9:.2f} GB for keys and values, and the memory "
                f"plan has {self._room / 1e9:.2f}: shorten the prompt or max_new_tokens, "
                "or raise max_memory"
            )

    def add(self, number: int, request: Request, answer: Answer) -> None:
        self.waiting.append(Waiting(number, request, answer, _columns(request)))

    def next(self, rows: Sequence[Row]) -> Waiting | None:
        """The first, if it fits beside these rows, and still in its place: nobody overtakes a long
        one that waits for memory."""
        if not self.waiting:
            return None
        columns = [*(row.columns for row in rows), self.waiting[0].columns]
        return self.waiting[0] if self.bytes(columns) <= self._room else None

    def drop(self, numbers: Container[int]) -> None:
        """Those of them that wait."""
        self.waiting = deque(entry for entry in self.waiting if entry.number not in numbers)

    def bytes(self, columns: Sequence[int]) -> int:
        """What requests of so many columns each take, if all of them are at work at once. While a
        row is encoded its old columns are there beside the new ones."""
        network = self._network
        own = [network.cache_bytes(count) for count in columns]
        passing = max(own, default=0) + max(map(network.widened_bytes, columns), default=0)
        return sum(own) + passing + self._stepper.held(columns)

    def free(self, rows: Sequence[Row]) -> int:
        """Bytes that none of these rows can come to need."""
        return self._room - self.bytes([row.columns for row in rows])


def _columns(request: Request) -> int:
    canvases = -(-request.config.max_new_tokens // request.canvas_length)
    return len(request.prompt_ids) + canvases * request.canvas_length

"""Generators that run in inference mode, and whoever reads them does not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Yielded = TypeVar("Yielded")


def in_inference_mode(
    function: Callable[Given, Generator[Yielded, None, None]],
) -> Callable[Given, Iterator[Yielded]]:
    """A generator function whose every step runs in `torch.inference_mode`.

    torch's own decorator does that too, and enters the mode once more to close a generator that
    nobody finished: when the interpreter goes down with one, torch is no longer there to enter it,
    and the program ends with a traceback.
    """

    @functools.wraps(function)
    def begin(*args: Given.args, **keys: Given.kwargs) -> Iterator[Yielded]:
        return _Steps(function(*args, **keys))

    return begin


class _Steps(Iterator[Yielded]):
    def __init__(self, steps: Generator[Yielded, None, None]) -> None:
        self._steps = steps

    def __next__(self) -> Yielded:
        with torch.inference_mode():
            return next(self._steps)

    def close(self) -> None:
        self._steps.close()

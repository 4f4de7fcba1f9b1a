"""Where a network answers: in inference mode, and on its own device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import torch

from gesso.model.network import Network

Given = ParamSpec("Given")
Yielded = TypeVar("Yielded")


@contextmanager
def inference(network: Network) -> Iterator[None]:
    """Inference mode, with the network's device as the current one. Kernels are launched on that,
    and it is each thread's own."""
    with torch.inference_mode():
        if network.device.type == "cuda":
            with torch.cuda.device(network.device):
                yield
        else:
            yield


def in_inference_mode(
    function: Callable[Concatenate[Network, Given], Generator[Yielded, None, None]],
) -> Callable[Concatenate[Network, Given], Iterator[Yielded]]:
    """A generator function whose every step runs in `inference`, whichever thread asks for it.

    torch's own decorator does that too, and enters the mode once more to close a generator that
    nobody finished: when the interpreter goes down with one, torch is no longer there to enter it,
    and the program ends with a traceback.
    """

    @functools.wraps(function)
    def begin(network: Network, *args: Given.args, **keys: Given.kwargs) -> Iterator[Yielded]:
        return _Steps(network, function(network, *args, **keys))

    return begin


class _Steps(Iterator[Yielded]):
    def __init__(self, network: Network, steps: Generator[Yielded, None, None]) -> None:
        self._network = network
        self._steps = steps

    def __next__(self) -> Yielded:
        with inference(self._network):
            return next(self._steps)

    def close(self) -> None:
        self._steps.close()

"""The costly part of a step as one compiled graph: many small operators become few.

On a CPU a small checkpoint spends more time between its matrix products than in them. The graph
takes the weights as constants, so that they are laid out once as the products want them.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gesso.diffusion.loop import Denoiser, Reader, Reading, read
from gesso.generation.denoiser import NetworkDenoiser
from gesso.model.network import Network


def compiled_reader(network: Network) -> Reader:
    """For denoisers of this network, whose weights must not change any more.

    Equal to `read` up to rounding. Compiles at its first call, for every cache length at once; a
    batch of another size compiles once more. ValueError when there is no C++ compiler, which
    torch needs for this.
    """
    # Here, for they take seconds to import.
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    _look_for_compiler()
    graph = torch.compile(
        _copy(read),
        fullgraph=True,
        options={
            # Calls between the operators in C++ too: a sixth of a step.
            "cpp_wrapper": True,
            # The network stays what it is; checking all of its modules takes 0.3 ms a step.
            "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe,
        },
    )

    def reader(
        denoiser: Denoiser, tokens: Tensor, soft: Tensor | None, temperature: float | Tensor
    ) -> Reading:
        assert isinstance(denoiser, NetworkDenoiser)
        assert denoiser.network is network
        denoiser.mark_lengths()
        if soft is None:
            # No soft embedding is the same as one of zero, and needs no graph of its own.
            soft = denoiser.no_soft_embedding()
        with (
            torch.no_grad(),
            inductor.patch(freezing=True),
            # The experts' groups are as long as the data says: that length becomes a variable.
            dynamo.patch(capture_scalar_outputs=True),
        ):
            found = graph(denoiser, tokens, soft, torch.as_tensor(temperature))
        assert isinstance(found, Reading)
        return found

    return reader


def _copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with code of its own: torch keeps what it compiled by the code, and unchecked
    modules would let two networks share a graph."""
    return types.FunctionType(function.__code__.replace(), function.__globals__)


def _look_for_compiler() -> None:
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        raise ValueError(
            "compile: no C++ compiler was found; install one (g++, clang), or leave compile out"
        ) from None

"""What a network's layers read while it answers: what rounding its weights can go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from gesso.generation.events import End
from gesso.generation.loop import generate_events
from gesso.generation.model import DiffusionGemma, Prompt
from gesso.kernels.geglu import geglu
from gesso.model.moe import Experts
from gesso.model.network import Network
from gesso.model.quantize import is_quantized, quantizable

_ROWS = 8


def second_moments(
    model: DiffusionGemma,
    prompts: Sequence[Prompt],
    *,
    on_answer: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Of every weight that may be stored in few bits, by native name: the sum of x x^T over its
    inputs, in float32 on the network's device, while the prompts are answered.

    (in, in); of experts' `down` (E, in, in), each input scaled as the output is. All experts'
    `gate_up` share one: of 128, few would have read enough by themselves. on_answer is told how
    many of how many are done. ValueError for a network in few bits, and before any work for a
    prompt that cannot be asked.
    """
    if is_quantized(model.network):
        raise ValueError("the weights are in few bits already; calibrate with those in bfloat16")
    requests = [model.request(prompt, {}) for prompt in prompts]
    done = 0
    with _listening(model.network) as moments:
        for start in range(0, len(requests), _ROWS):
            some = requests[start : start + _ROWS]
            for event in generate_events(model.network, model.processor, some):
                if isinstance(event, End):
                    done += 1
                    if on_answer is not None:
                        on_answer(done, len(requests))
    return moments


@contextmanager
def _listening(network: Network) -> Iterator[dict[str, Tensor]]:
    """Moments by name, to which every pass adds until the end."""
    moments: dict[str, Tensor] = {}

    def room(name: str, *shape: int) -> Tensor:
        return moments.setdefault(name, torch.zeros(shape, device=network.device))

    with ExitStack() as stack:
        for name, module in quantizable(network).items():
            if isinstance(module, Experts):
                count, hidden, inner = module.down.shape
                shared = room(f"{name}.gate_up", hidden, hidden)
                hook = _of_experts(shared, room(f"{name}.down", count, inner, inner))
            else:
                hook = _of_linear(room(f"{name}.weight", module.in_features, module.in_features))
            stack.enter_context(module.register_forward_pre_hook(hook))
        yield moments


_Hook = Callable[[nn.Module, tuple[Tensor, ...]], None]


def _of_linear(moment: Tensor) -> _Hook:
    def hear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _add(moment, inputs[0].flatten(0, -2))

    return hear


def _of_experts(shared: Tensor, each: Tensor) -> _Hook:
    def hear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Experts)
        x, index, weight, *_ = inputs
        _add(shared, x)
        for expert in index.unique().tolist():
            token, place = (index == expert).nonzero(as_tuple=True)
            inner = geglu(*(x[token] @ module.gate_up[expert].T).chunk(2, dim=-1))
            _add(each[expert], inner * weight[token, place, None])

    return hear


def _add(moment: Tensor, rows: Tensor) -> None:
    moment.addmm_(rows.float().T, rows.float())

"""What layers read while a network answers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesso.generation.calibrate import second_moments
from gesso.generation.model import DiffusionGemma
from gesso.model.moe import Experts
from gesso.model.quantize import SCHEMES, quantizable, quantize_network

PROMPTS = ["a", "bcd", "ef gh"]


def test_moments_are_sums_over_all_that_was_read(dg: DiffusionGemma) -> None:
    wanted: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        wanted[name] = wanted.get(name, torch.zeros(())) + torch.outer(x, x)

    def listen(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def linear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for x in inputs[0].flatten(0, -2):
                add(f"{name}.weight", x)

        def experts(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, Experts)
            for x, index, weight in zip(*inputs[:3], strict=True):
                add(f"{name}.gate_up", x)
                for expert, share in zip(index.tolist(), weight, strict=True):
                    gate, up = (module.gate_up[expert] @ x).chunk(2)
                    add(f"{name}.down.{expert}", share * F.gelu(gate, approximate="tanh") * up)

        return experts if isinstance(dg.network.get_submodule(name), Experts) else linear

    names = list(quantizable(dg.network))
    handles = [
        dg.network.get_submodule(name).register_forward_pre_hook(listen(name)) for name in names
    ]
    done: list[tuple[int, int]] = []
    moments = second_moments(dg, PROMPTS, on_answer=lambda *count: done.append(count))
    for handle in handles:
        handle.remove()
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert {name.rpartition(".")[0] for name in moments} == set(names)
    for name, moment in moments.items():
        if moment.dim() == 3:
            for expert, each in enumerate(moment):
                expected = wanted.get(f"{name}.{expert}", torch.zeros_like(each))
                torch.testing.assert_close(each, expected, rtol=1e-3, atol=1e-4)
        else:
            torch.testing.assert_close(moment, wanted[name], rtol=1e-3, atol=1e-4)
    # Nobody listens any more.
    before = {name: moment.clone() for name, moment in moments.items()}
    dg.generate("a")
    assert all(torch.equal(moments[name], moment) for name, moment in before.items())


def test_refused(dg: DiffusionGemma) -> None:
    with pytest.raises(ValueError, match="empty"):
        second_moments(dg, ["a", ""])
    quantize_network(dg.network, SCHEMES["fp8"])
    with pytest.raises(ValueError, match="in few bits already"):
        second_moments(dg, ["a"])

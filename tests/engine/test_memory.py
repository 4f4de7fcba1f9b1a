"""The memory plan: amounts, limits, and what fits at the released shape."""

from dataclasses import replace

import pytest
import torch

from gesso.cache import cache_bytes
from gesso.engine.device import DeviceSteps
from gesso.engine.memory import parse_bytes, plan_memory
from gesso.engine.stepper import JoinedSteps
from gesso.generation.model import DiffusionGemma
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network
from recipes import released


@pytest.mark.parametrize(
    ("amount", "found"),
    [(5, 5), ("18GB", 18 * 10**9), ("1.5 GiB", 3 * 2**29), ("512MiB", 2**29), ("7", 7)],
)
def test_amounts(amount: int | str, found: int) -> None:
    assert parse_bytes(amount) == found


@pytest.mark.parametrize("amount", ["", "GB", "-1", "1 parsec", True, -5])
def test_bad_amounts(amount: int | str) -> None:
    with pytest.raises(ValueError, match="expected bytes, or a string such as '18GB'"):
        parse_bytes(amount)


def test_too_little(dg: DiffusionGemma) -> None:
    steps = JoinedSteps(dg.network)
    with pytest.raises(ValueError, match="give more, fewer rows, or quantize"):
        plan_memory(dg.network, steps, rows=1, chunk=8, limit="1KB")


def test_the_released_shape_in_18_gigabytes() -> None:
    """NVFP4 experts, FP8 otherwise, and 8K of context, by kernels; without the image encoder, whose
    1.15 GB in bf16 are too much. Of its tensors: what a process on a GPU takes besides was never
    measured."""
    with torch.device("meta"):
        network = Network(replace(released.SHAPE, vision=None)).to(torch.bfloat16)
        quantize_network(network, SCHEMES["nvfp4"])
        steps = DeviceSteps(network, rows=1)
    plan = plan_memory(network, steps, rows=1, chunk=1024, limit="18GB")
    assert 15.9e9 < plan.weights < 16.1e9
    columns = 8192 + 256
    own = cache_bytes(network.config.text, columns, network.dtype)
    assert own + steps.held([columns]) < plan.room

"""Masters, clipping, average and learning rate, against torch's own optimiser in float32."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from gesso.model.network import Network
from gesso.training.config import OptimizerConfig
from gesso.training.weights import MasterWeights, learning_rate

CONFIG = OptimizerConfig(
    lr=0.1, warmup_steps=4, final_lr_share=0.1, weight_decay=0.3, clip=1e9, ema_decay=0.0
)


class Small(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 4, generator=generator).to(dtype))
        self.norm = nn.Parameter(torch.randn(4, generator=generator).to(dtype))
        self.unused = nn.Parameter(torch.randn(2, 2, generator=generator).to(dtype))
        self.register_buffer("scalar", torch.ones(1))


def gradients(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {
        "matrix": torch.randn(3, 4, generator=generator),
        "norm": torch.randn(4, generator=generator),
    }


def give(module: nn.Module, step: int, scale: float = 1.0) -> None:
    for name, grad in gradients(step).items():
        parameter = getattr(module, name)
        parameter.grad = (scale * grad).to(parameter.dtype)


def test_learning_rate_shape() -> None:
    rates = [learning_rate(CONFIG, step, 20) for step in range(21)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert rates[4] == pytest.approx(0.1)
    assert rates[12] == pytest.approx((0.1 + 0.01) / 2)  # half of the cosine
    assert rates[20] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert rates[8] == pytest.approx(0.01 + 0.09 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(CONFIG, 1000, 20) == pytest.approx(0.01)


@pytest.mark.parametrize("total", [1, 3, 4, 5])
def test_learning_rate_of_short_runs(total: int) -> None:
    for warmup in (0, 1, 4):
        config = replace(CONFIG, warmup_steps=warmup)
        rates = [learning_rate(config, step, total) for step in range(total)]
        assert all(0 < rate <= 0.1 for rate in rates)


def test_adamw_with_decay_on_matrices_alone() -> None:
    """Five steps against a loop of the textbook's formulas."""
    module = Small()
    weights = MasterWeights(module, CONFIG, total_steps=10)
    exact = {n: p.detach().double().clone() for n, p in module.named_parameters()}
    first = {n: torch.zeros_like(p) for n, p in exact.items()}
    second = {n: torch.zeros_like(p) for n, p in exact.items()}
    (b1, b2), unused = CONFIG.betas, module.unused.detach().clone()
    for step in range(5):
        give(module, step)
        norm = weights.step(step)
        grads = gradients(step)
        assert norm == pytest.approx(
            math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        )
        lr = learning_rate(CONFIG, step, 10)
        for name, grad in grads.items():
            g, p = grad.double(), exact[name]
            if name == "matrix":
                p *= 1 - lr * CONFIG.weight_decay
            first[name] = b1 * first[name] + (1 - b1) * g
            second[name] = b2 * second[name] + (1 - b2) * g * g
            unbiased = second[name] / (1 - b2 ** (step + 1))
            p -= lr * (first[name] / (1 - b1 ** (step + 1))) / (unbiased.sqrt() + 1e-8)
        assert all(p.grad is None for p in module.parameters())
    for name in ("matrix", "norm"):
        torch.testing.assert_close(
            getattr(module, name).detach().double(), exact[name], rtol=1e-5, atol=1e-6
        )
    assert torch.equal(module.unused, unused)


def test_clipping() -> None:
    """A gradient of any length beyond the bound acts as one of that length."""
    config, results = replace(CONFIG, clip=0.5, weight_decay=0.0), []
    for scale in (10.0, 1000.0):
        module = Small()
        weights = MasterWeights(module, config, total_steps=10)
        give(module, 0, scale=1.0)
        weights.step(0)
        give(module, 1, scale=scale)
        norm = weights.step(1)
        results.append((norm, module.matrix.detach().clone()))
    assert results[1][0] == pytest.approx(100 * results[0][0], rel=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)
    free = Small()
    weights = MasterWeights(free, replace(config, clip=1e9), total_steps=10)
    give(free, 0)
    weights.step(0)
    give(free, 1, scale=10.0)
    weights.step(1)
    assert not torch.allclose(free.matrix, results[0][1], atol=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    module = Small()
    weights = MasterWeights(module, CONFIG, total_steps=10)
    give(module, 0)
    module.norm.grad[1] = bad
    before = {k: t.clone() for k, t in weights.state().items()}
    with pytest.raises(FloatingPointError, match=r"norm is .* at step 0; a lower learning rate"):
        weights.step(0)
    assert all(torch.equal(before[k], t) for k, t in weights.state().items())


def test_average() -> None:
    """The ramp min(decay, (1 + n) / (10 + n)), then the plain exponential average."""
    config = replace(CONFIG, ema_decay=0.25)
    module = Small()
    weights = MasterWeights(module, config, total_steps=10)
    expected = module.matrix.detach().double().clone()
    for step in range(6):
        give(module, step)
        weights.step(step)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.matrix.detach().double()
        torch.testing.assert_close(
            weights.averaged()["matrix"].double(), expected, rtol=1e-6, atol=1e-6
        )
    assert not torch.allclose(weights.averaged()["matrix"], module.matrix, atol=1e-3)


def test_without_an_average_the_masters_are_shipped() -> None:
    module = Small(torch.bfloat16)
    weights = MasterWeights(module, CONFIG, total_steps=10)
    give(module, 0)
    weights.step(0)
    shipped = weights.averaged()
    assert shipped.keys() == dict(module.named_parameters()).keys()
    assert all(tensor.dtype == torch.float32 for tensor in shipped.values())
    assert torch.equal(shipped["matrix"].bfloat16(), module.matrix)


def test_masters_keep_what_bfloat16_would_lose() -> None:
    """Steps far below a weight's last bit add up."""
    module = Small(torch.bfloat16)
    module.norm.data.fill_(1.0)
    config = replace(CONFIG, lr=1e-4, warmup_steps=0, final_lr_share=1.0, weight_decay=0.0)
    weights = MasterWeights(module, config, total_steps=10**6)
    for step in range(60):
        module.norm.grad = torch.ones(4, dtype=torch.bfloat16)
        weights.step(step)
        if step == 5:
            assert torch.equal(module.norm, torch.ones(4, dtype=torch.bfloat16))
    # 60 steps of 1e-4 each: 0.994, and bfloat16's next value below 1 is 0.996.
    torch.testing.assert_close(weights.averaged()["norm"], torch.full((4,), 0.994))
    assert torch.equal(module.norm, torch.full((4,), 0.994).bfloat16())
    assert module.norm.dtype == torch.bfloat16


def saved(module: nn.Module, steps: int, config: OptimizerConfig) -> MasterWeights:
    weights = MasterWeights(module, config, total_steps=10)
    for step in range(steps):
        give(module, step)
        weights.step(step)
    return weights


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_state_round_trip(steps: int) -> None:
    """A second optimiser goes on bit for bit, and the state that it was given stays as it was."""
    config = replace(CONFIG, ema_decay=0.5)
    one, two = Small(torch.bfloat16), Small(torch.bfloat16)
    nn.init.zeros_(two.matrix)
    weights = saved(one, steps, config)
    state = {key: tensor.clone() for key, tensor in weights.state().items()}
    before = {key: tensor.clone() for key, tensor in state.items()}
    other = MasterWeights(two, config, total_steps=10)
    other.load_state(state)
    assert torch.equal(one.matrix, two.matrix)
    for step in range(steps, steps + 2):
        for module, optimiser in ((one, weights), (two, other)):
            give(module, step)
            optimiser.step(step)
    after = other.state()
    assert after.keys() == weights.state().keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in weights.state().items())
    assert all(torch.equal(one_, two_) for one_, two_ in zip(
        one.parameters(), two.parameters(), strict=True
    ))  # fmt: skip
    assert all(torch.equal(before[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_another_recipes_state_is_refused_and_nothing_is_taken_over(change: str) -> None:
    state = {k: t.clone() for k, t in saved(Small(), 2, CONFIG).state().items()}
    if change == "missing":
        del state["master.norm"]
    elif change == "more":
        state["master.second"] = torch.zeros(3)  # a run with more layers than this recipe has
    else:
        state["master.norm"] = torch.zeros(5)
    weights = MasterWeights(Small(), CONFIG, total_steps=10)
    before = {k: t.clone() for k, t in weights.state().items()}
    name = "second" if change == "more" else "norm"
    with pytest.raises(ValueError, match=f"does not fit this recipe at '{name}'; resume with"):
        weights.load_state(state)
    assert all(torch.equal(before[k], t) for k, t in weights.state().items())


def test_every_parameter_of_a_network_is_trained(make_network: Callable[..., Network]) -> None:
    network = make_network(vision=False).requires_grad_(True)
    weights = MasterWeights(network, CONFIG, total_steps=10)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    weights.step(0)
    assert all(not torch.equal(before[n], p) for n, p in network.named_parameters())

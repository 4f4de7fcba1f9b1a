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


MUON = replace(CONFIG, method="muon", momentum=0.8)


class Linear(nn.Module):
    """Two linear maps, a stack of them, and what Muon leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shapes = {"wide": (3, 5), "tall": (5, 3), "stack": (2, 3, 5), "embed": (7, 3)}
        for name, shape in (shapes | {"router": (4, 3), "norm": (3,)}).items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator)))


def give_all(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(200 + step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_muon_against_singular_values() -> None:
    """Its update is the momentum with all singular values near 1, each matrix of a stack for
    itself, at 0.2 sqrt(larger side); everything else is AdamW's, as in a run without Muon."""
    module, plain = Linear(), Linear()
    weights = MasterWeights(module, MUON, total_steps=10)
    reference = MasterWeights(plain, CONFIG, total_steps=10)
    momenta = {n: torch.zeros(getattr(module, n).shape) for n in ("wide", "tall", "stack")}
    for step in range(4):
        before = {n: p.detach().clone() for n, p in module.named_parameters()}
        give_all(module, step)
        give_all(plain, step)
        grads = {n: p.grad for n, p in module.named_parameters()}
        weights.step(step)
        reference.step(step)
        lr = learning_rate(MUON, step, 10)
        for name, momentum in momenta.items():
            momentum.mul_(0.8).add_(grads[name], alpha=0.2)
            direction = 0.2 * grads[name] + 0.8 * momentum
            moved = (1 - lr * 0.3) * before[name] - getattr(module, name).detach()
            update = moved / (lr * 0.2 * math.sqrt(5))
            for one, other in zip(update.view(-1, *update.shape[-2:]),
                                  direction.view(-1, *update.shape[-2:]), strict=True):  # fmt: skip
                left, _, right = torch.linalg.svd(other, full_matrices=False)
                turned = left.mT @ one @ right.mT
                values = turned.diagonal()
                assert ((values > 0.6) & (values < 1.3)).all()
                torch.testing.assert_close(turned, values.diag(), rtol=0, atol=1e-3)
    for name in ("embed", "router", "norm"):
        assert torch.equal(getattr(module, name), getattr(plain, name))


def test_muon_leaves_weights_without_a_gradient() -> None:
    module = Linear()
    weights = MasterWeights(module, MUON, total_steps=10)
    give_all(module, 0)
    module.tall.grad, before = None, module.tall.detach().clone()
    weights.step(0)
    assert torch.equal(module.tall, before)


def test_muon_state_round_trip() -> None:
    one, two = Linear(), Linear()
    weights, other = (MasterWeights(m, MUON, total_steps=10) for m in (one, two))
    for step in range(3):
        give_all(one, step)
        weights.step(step)
    other.load_state({key: tensor.clone() for key, tensor in weights.state().items()})
    for module, optimiser in ((one, weights), (two, other)):
        give_all(module, 3)
        optimiser.step(3)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_the_state_of_another_method_is_refused() -> None:
    module = Linear()
    weights = MasterWeights(module, MUON, total_steps=10)
    give_all(module, 0)
    weights.step(0)
    with pytest.raises(ValueError, match=r"does not fit this recipe at 'wide'"):
        MasterWeights(Linear(), CONFIG, total_steps=10).load_state(weights.state())


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="method: got 'sgd'; expected one of adamw, muon"):
        OptimizerConfig(method="sgd")

"""Adapters in the network: nothing at first, then what the merged weights would give."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gesso.model.lora import (
    TARGETS,
    LoraConfig,
    LoraExperts,
    LoraLinear,
    adapted_weights,
    add_adapter,
    merge_change,
    targets_of,
)
from gesso.model.network import Network

CONFIG = LoraConfig(rank=3, alpha=5.0)


@pytest.fixture
def network(make_network: Callable[..., Network]) -> Network:
    return make_network().double()


def outputs(network: Network) -> tuple[Tensor, Tensor]:
    """Hidden states of a prompt, logits of a canvas with a soft embedding."""
    generator = torch.Generator().manual_seed(1)
    cache = network.new_cache(batch_size=2)
    hidden = network.encode(torch.randint(96, (2, 9), generator=generator), cache=cache)
    soft = torch.randn(2, 5, 32, generator=generator, dtype=network.dtype)
    canvas = torch.randint(96, (2, 5), generator=generator)
    return hidden, network.denoise(canvas, cache=cache, soft=soft)


def randomise_adapter(network: Network, seed: int = 7) -> dict[str, Tensor]:
    """Every factor random; returns them by name."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            drawn = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(drawn)
            found[name] = parameter.detach().clone()
    return found


def test_a_new_adapter_changes_nothing_to_the_bit(network: Network) -> None:
    # Without gradients: torch picks another attention kernel for those.
    with torch.no_grad():
        before = outputs(network)
        add_adapter(network, CONFIG)
        after = outputs(network)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("targets", [tuple(TARGETS), *((target,) for target in TARGETS)])
def test_merged_is_unmerged(
    network: Network, make_network: Callable[..., Network], targets: tuple[str, ...]
) -> None:
    config = LoraConfig(rank=3, alpha=5.0, targets=targets)
    plain = outputs(network)
    add_adapter(network, config)
    factors = randomise_adapter(network)
    adapted = outputs(network)
    merged = make_network().double()
    for name, weight in adapted_weights(merged, config).items():
        expected = weight + 5 / 3 * factors[name + "_b"] @ factors[name + "_a"]
        merge_change(weight, factors[name + "_a"], factors[name + "_b"], scale=config.scale)
        torch.testing.assert_close(weight, expected)
    for one, other, base in zip(adapted, outputs(merged), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        if targets != ("self_conditioning",) or one is adapted[1]:
            assert not torch.allclose(one, base, rtol=0, atol=1e-3)


def test_only_the_factors_are_trained_and_all_of_them(network: Network) -> None:
    add_adapter(network, CONFIG)
    randomise_adapter(network)
    hidden, logits = outputs(network)
    (hidden.square().mean() + logits.square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == name.endswith(("_a", "_b")), name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (
            parameter.requires_grad
        ), name


def test_what_is_adapted(network: Network) -> None:
    names = set(targets_of(network, CONFIG))
    # Three layers, of which two have no value projection; the image encoder stays as it is.
    assert len(names) == 3 * (4 + 3 + 1 + 1) - 2 + 3
    assert not any(name.startswith(("vision", "projector", "embed")) for name in names)
    assert set(targets_of(network, LoraConfig(targets=("experts",)))) == {
        f"layers.{layer}.experts" for layer in range(3)
    }
    add_adapter(network, CONFIG)
    kinds = {n: type(m) for n, m in network.named_modules() if n in names}
    assert set(kinds.values()) == {LoraLinear, LoraExperts}


def test_the_start_is_a_function_of_the_seed(make_network: Callable[..., Network]) -> None:
    starts = []
    for seed in (1, 1, 2):
        network = make_network()
        add_adapter(network, CONFIG, seed=seed)
        starts.append([p for p in network.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(starts[0], starts[2], strict=True))


def test_one_adapter_a_network(network: Network) -> None:
    add_adapter(network, CONFIG)
    with pytest.raises(ValueError, match="has an adapter already; begin from the plain"):
        add_adapter(network, CONFIG)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (dict(rank=0), "rank: got 0; expected at least 1"),
        (dict(alpha=0.0), "alpha: got 0.0; expected a number above 0"),
        (dict(alpha=float("nan")), "alpha: got nan"),
        (dict(targets=("attention", "head")), r"targets: got \['attention', 'head'\]; expected"),
        (dict(targets=()), r"targets: got \[\]"),
    ],
)
def test_bad_config(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**keys)

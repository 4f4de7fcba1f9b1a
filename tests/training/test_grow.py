"""Layers that come twice: nothing is said differently, and the copies can learn."""

from collections.abc import Callable

import pytest
import torch

from gesso.model.network import Network
from recipes.grow import deepened

CANVAS = torch.arange(5)[None] % 96


def test_it_says_what_it_said(make_network: Callable[..., Network]) -> None:
    network = make_network()
    layers = len(network.layers)
    deeper = deepened(network, [0, layers - 1])
    assert len(deeper.layers) == layers + 2
    kinds, before = deeper.config.text.layer_types, network.config.text.layer_types
    assert kinds == (before[0], *before, before[-1])
    ids = torch.arange(14)[None] % 96
    for mine, other in zip(said(deeper, ids), said(network, ids), strict=True):
        torch.testing.assert_close(mine, other)
    for hidden in said(deeper, ids):
        hidden.square().sum().backward(retain_graph=True)
    for layer in (deeper.layers[1], deeper.layers[-1]):
        for norm in (layer.post_attention_norm, layer.post_norm):
            assert not norm.weight.any()
            assert norm.weight.grad is not None
            assert norm.weight.grad.any()


def said(network: Network, ids: torch.Tensor) -> list[torch.Tensor]:
    cache = network.new_cache(batch_size=1, trim=False)
    hidden = network.encode(ids, cache=cache)
    return [hidden, network.denoise(CANVAS, cache=cache)]


def test_a_layer_that_is_not_there(make_network: Callable[..., Network]) -> None:
    with pytest.raises(ValueError, match=r"repeat: got \[9\]; the network has layers 0 to"):
        deepened(make_network(), [1, 9])

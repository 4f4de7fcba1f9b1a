"""A network in few bits: what it computes, what it takes, and how far it is from the wide one."""

from collections.abc import Callable

import pytest
import torch

import gesso
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network, stored_bytes
from gesso.quant import FP8, INT4, NVFP4, QuantExperts, QuantLinear


@pytest.mark.parametrize("form", [FP8(), NVFP4(), INT4()])
def test_a_linear_map_multiplies_by_what_is_stored(form) -> None:
    weight, x = torch.randn(12, 64), torch.randn(3, 5, 64)
    wide = form.dequantize(form.quantize(weight), torch.float32)
    assert torch.equal(QuantLinear(weight, form)(x), x @ wide.T)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_network_is_the_one_of_its_rounded_weights(
    make_network: Callable[..., Network], name: str
) -> None:
    """Every linear map of the text stack and every expert, and nothing else."""
    network = make_network(hidden_size=32, intermediate_size=48, moe_intermediate_size=16)
    rounded = make_network(hidden_size=32, intermediate_size=48, moe_intermediate_size=16)
    scheme, left = SCHEMES[name], []
    for path, weight in rounded.named_parameters():
        experts = ".experts." in path
        linear = any(word in path for word in (".attention.", "mlp.")) and "norm" not in path
        if path.startswith(("vision", "projector")) or not (experts or linear):
            left.append(path)
            continue
        form = scheme.experts if experts else scheme.linear
        weight.data = form.dequantize(form.quantize(weight.data), torch.float32)
    quantize_network(network, scheme)
    assert {name for name, _ in network.named_parameters()} == set(left)
    kinds = {type(module) for module in network.modules()}
    assert {QuantLinear, QuantExperts} <= kinds
    ids, canvas = torch.randint(90, (2, 9)), torch.randint(90, (2, 5))
    hidden = []
    for each in (network, rounded):
        cache = each.new_cache(batch_size=2)
        first = each.encode(ids, cache=cache)
        hidden.append((first, each.denoise(canvas, cache=cache, soft=first[:, :5])))
    torch.testing.assert_close(hidden[0], hidden[1])


@pytest.mark.parametrize(("name", "most"), [("fp8", 0.65), ("nvfp4", 0.5), ("int4", 0.5)])
def test_loading_in_few_bits(name: str, most: float) -> None:
    wide, small = gesso.load(dtype="bfloat16"), gesso.load(dtype="bfloat16", quantize=name)
    assert stored_bytes(small.network) < most * stored_bytes(wide.network)
    assert small.generate("A table for two.", max_new_tokens=8).text is not None


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="quantize: got 'int3'; expected one of fp8, nvfp4, int4"):
        gesso.load(quantize="int3")


def test_what_does_not_fit_leaves_the_network_alone(make_network: Callable[..., Network]) -> None:
    network = make_network(moe_intermediate_size=24)
    before = list(network.state_dict())
    with pytest.raises(ValueError, match="24 inputs does not fall into groups of 16"):
        quantize_network(network, SCHEMES["nvfp4"])
    assert list(network.state_dict()) == before

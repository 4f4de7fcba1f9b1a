"""A network in few bits: what it computes, what it takes, and how far it is from the wide one."""

from collections.abc import Callable

import pytest
import torch

import gesso
from gesso.model.lora import LoraConfig, add_adapter
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network, stored_bytes
from gesso.quant import FP8, INT4, NVFP4, QuantExperts, QuantLinear
from recipes import released


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
    reference = make_network(hidden_size=32, intermediate_size=48, moe_intermediate_size=16)
    rounded(reference, name)
    quantize_network(network, SCHEMES[name])
    left = {path for path, _ in network.named_parameters()}
    assert {path.split(".")[0] for path in left} == {
        "embed", "layers", "norm", "self_conditioning", "vision", "projector",
    }  # fmt: skip
    assert all(
        "norm" in path or "router" in path for path in left if path[:6] in ("layers", "self_c")
    )
    kinds = {type(module) for module in network.modules()}
    assert {QuantLinear, QuantExperts} <= kinds
    ids, canvas = torch.randint(90, (2, 9)), torch.randint(90, (2, 5))
    hidden = []
    for each in (network, reference):
        cache = each.new_cache(batch_size=2)
        first = each.encode(ids, cache=cache)
        hidden.append((first, each.denoise(canvas, cache=cache, soft=first[:, :5])))
    torch.testing.assert_close(hidden[0], hidden[1])


def rounded(network: Network, name: str) -> None:
    """Make its weights those that the scheme would store."""
    scheme = SCHEMES[name]
    for path, weight in network.named_parameters():
        experts = ".experts." in path
        linear = any(word in path for word in (".attention.", "mlp.")) and "norm" not in path
        if not path.startswith(("vision", "projector")) and (experts or linear):
            form = scheme.experts if experts else scheme.linear
            weight.data = form.dequantize(form.quantize(weight.data), torch.float32)


@pytest.mark.parametrize("again", [False, True])
def test_an_adapter_learns_on_it_as_on_the_rounded_weights(
    make_network: Callable[..., Network], again: bool
) -> None:
    """And with activations checkpointed, no weight made wide is kept."""
    networks = [make_network(vision=False) for _ in range(2)]
    quantize_network(networks[0], SCHEMES["nvfp4"])
    rounded(networks[1], "nvfp4")
    kept: set[torch.Size] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.add(tensor.shape)
        return tensor

    found = []
    for network in networks:
        add_adapter(network, LoraConfig(rank=2), seed=1)
        network.checkpoint_activations = again
        for name, parameter in network.named_parameters():
            if name.endswith("_b"):
                torch.nn.init.normal_(parameter, generator=torch.manual_seed(len(name)))
        cache = network.new_cache(batch_size=2)
        ids = torch.arange(18).view(2, 9)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = network.encode(ids, cache=cache)
        hidden.square().sum().backward()
        if network is networks[0]:
            assert any(shape[:1] == (6,) and len(shape) == 3 for shape in kept) != again
        found.append({n: p.grad for n, p in network.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient)


def test_the_released_checkpoint_in_nvfp4() -> None:
    """Experts in 4 bits, the text stack's other maps in 8: 16.0 GB, and 1.1 of image encoder."""
    with torch.device("meta"):
        network = Network(released.SHAPE).to(torch.bfloat16)
    quantize_network(network, SCHEMES["nvfp4"])
    images = stored_bytes(network.vision) + stored_bytes(network.projector)
    assert 15.9e9 < stored_bytes(network) - images < 16.1e9


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

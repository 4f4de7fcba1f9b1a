"""The released 26B: every published name and shape, and the counts, without its memory."""

import json
from pathlib import Path

import pytest
import torch

from gesso.checkpoint.names import published_name
from gesso.config import ModelConfig
from gesso.model.network import Network, parameter_count
from recipes import released

# The released config.json, as far as it shapes a tensor (model-spec §1).
CONFIG = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "shapes" / "26b" / "config.json").read_text()
)
FULL = (5, 11, 17, 23, 29)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The table of model-spec §2, written out by hand and not from our names."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.decoder.embed_tokens.weight": (262144, 2816),
        "model.decoder.norm.weight": (2816,),
        "model.decoder.self_conditioning.pre_norm.weight": (2816,),
        "model.decoder.self_conditioning.gate_proj.weight": (2112, 2816),
        "model.decoder.self_conditioning.up_proj.weight": (2112, 2816),
        "model.decoder.self_conditioning.down_proj.weight": (2816, 2112),
        "model.encoder.vision_tower.patch_embedder.input_proj.weight": (1152, 768),
        "model.encoder.vision_tower.patch_embedder.position_embedding_table": (2, 10240, 1152),
        "model.encoder.vision_tower.std_bias": (1152,),
        "model.encoder.vision_tower.std_scale": (1152,),
        "model.encoder.embed_vision.embedding_projection.weight": (2816, 1152),
    }
    for layer in range(30):
        queries, keys, width = (8192, 1024, 512) if layer in FULL else (4096, 2048, 256)
        entries: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (2816,),
            "post_attention_layernorm.weight": (2816,),
            "pre_feedforward_layernorm.weight": (2816,),
            "pre_feedforward_layernorm_2.weight": (2816,),
            "post_feedforward_layernorm.weight": (2816,),
            "post_feedforward_layernorm_1.weight": (2816,),
            "post_feedforward_layernorm_2.weight": (2816,),
            "layer_scalar": (1,),
            "self_attn.q_proj.weight": (queries, 2816),
            "self_attn.k_proj.weight": (keys, 2816),
            "self_attn.o_proj.weight": (2816, queries),
            "self_attn.q_norm.weight": (width,),
            "self_attn.k_norm.weight": (width,),
            "mlp.gate_proj.weight": (2112, 2816),
            "mlp.up_proj.weight": (2112, 2816),
            "mlp.down_proj.weight": (2816, 2112),
            "router.proj.weight": (128, 2816),
            "router.scale": (2816,),
            "router.per_expert_scale": (128,),
            "experts.gate_up_proj": (128, 1408, 2816),
            "experts.down_proj": (128, 2816, 704),
        }
        if layer not in FULL:
            entries["self_attn.v_proj.weight"] = (2048, 2816)
        shapes |= {f"model.decoder.layers.{layer}.{name}": s for name, s in entries.items()}
        shapes[f"model.encoder.language_model.layers.{layer}.layer_scalar"] = (1,)
    for layer in range(27):
        entries = {
            "input_layernorm.weight": (1152,),
            "post_attention_layernorm.weight": (1152,),
            "pre_feedforward_layernorm.weight": (1152,),
            "post_feedforward_layernorm.weight": (1152,),
            "self_attn.q_norm.weight": (72,),
            "self_attn.k_norm.weight": (72,),
            "mlp.gate_proj.linear.weight": (4304, 1152),
            "mlp.up_proj.linear.weight": (4304, 1152),
            "mlp.down_proj.linear.weight": (1152, 4304),
        }
        entries |= {f"self_attn.{p}_proj.linear.weight": (1152, 1152) for p in "qkvo"}
        prefix = f"model.encoder.vision_tower.encoder.layers.{layer}"
        shapes |= {f"{prefix}.{name}": s for name, s in entries.items()}
    return shapes


@pytest.fixture(scope="module")
def network() -> Network:
    with torch.device("meta"):
        return Network(ModelConfig.parse(CONFIG)).to(torch.bfloat16)


def test_names_and_shapes(network: Network) -> None:
    ours = {published_name(name): tuple(t.shape) for name, t in network.state_dict().items()}
    assert ours == published_shapes()
    assert len(ours) == 1047


def test_the_recipes_know_the_same_shape() -> None:
    assert ModelConfig.parse(CONFIG) == released.SHAPE


def test_counts(network: Network) -> None:
    assert parameter_count(network) == 25_823_778_864
    tensors = network.state_dict().values()
    assert sum(t.numel() * t.element_size() for t in tensors) == 51_647_562_456
    attention = [sum(p.numel() for p in layer.attention.parameters()) for layer in network.layers]
    assert set(attention) == {34_603_520, 49_021_952}
    experts = [sum(p.numel() for p in layer.experts.parameters()) for layer in network.layers]
    assert experts == [761_266_176] * 30
    vision = sum(t.numel() for t in network.vision.state_dict().values())
    assert vision == 569_550_384


def test_layer_kinds_without_a_list(network: Network) -> None:
    text = network.config.text
    assert tuple(i for i in range(text.num_layers) if text.is_full(i)) == FULL

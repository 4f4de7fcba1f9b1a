"""config.json in both spellings, there and back, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from gesso.config import ModelConfig
from gesso.generation_config import GenerationConfig
from gesso.values import read_json

RawConfig = Callable[..., dict[str, Any]]


def test_both_spellings_are_one_value(reference: Path) -> None:
    saved = ModelConfig.parse(read_json(reference / "config.json"))
    released = ModelConfig.parse(read_json(reference / "config_real_style.json"))
    # Only the second file lists the end of a turn as well.
    assert (saved.eos_token_ids, released.eos_token_ids) == ((1,), (1, 106))
    assert replace(saved, eos_token_ids=(1, 106)) == released
    assert (saved.text.heads(0), saved.text.heads(1)) == ((2, 16), (1, 32))


@pytest.mark.parametrize("vision", [True, False])
def test_there_and_back(raw_config: RawConfig, vision: bool) -> None:
    raw = raw_config(vision=vision)
    raw["text_config"]["rope_parameters"]["full_attention"]["factor"] = 8.0
    config = ModelConfig.parse(raw)
    assert config.text.full_rope.scaling == 8.0
    assert (config.vision is not None) == vision
    assert ModelConfig.parse(json.loads(json.dumps(config.to_json()))) == config


ROPES = [
    dict(rope_type="default", rope_theta=1e4),
    dict(rope_type="proportional", rope_theta=1e4, partial_rotary_factor=0.5),
    dict(rope_type="proportional", rope_theta=1e6, partial_rotary_factor=0.25, factor=8.0),
    dict(rope_type="proportional", rope_theta=1e6, partial_rotary_factor=1.0, factor=2.0),
]


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
@pytest.mark.parametrize("rope", ROPES, ids=str)
def test_rotations_are_written_as_they_were_read(
    raw_config: RawConfig, kind: str, rope: dict[str, Any]
) -> None:
    raw = raw_config()
    raw["text_config"]["rope_parameters"][kind] = rope
    config = ModelConfig.parse(raw)
    assert config.to_json()["text_config"]["rope_parameters"][kind] == rope
    assert ModelConfig.parse(config.to_json()) == config


def test_keys_that_do_not_matter_are_read_past(raw_config: RawConfig) -> None:
    raw = raw_config() | {"transformers_version": "9", "vision_soft_tokens_per_image": 280}
    assert ModelConfig.parse(raw) == ModelConfig.parse(raw_config())


def test_layer_kinds(raw_config: RawConfig) -> None:
    """Every sixth sees everything when none are listed, and the last always does."""
    raw = raw_config(num_hidden_layers=8, layer_types=None)
    text = ModelConfig.parse(raw).text
    assert [i for i in range(8) if text.is_full(i)] == [5, 7]
    raw = raw_config(layer_types=["full_attention", "sliding_attention", "sliding_attention"])
    text = ModelConfig.parse(raw).text
    assert [text.is_full(i) for i in range(3)] == [True, False, True]


def test_a_config_does_not_change(raw_config: RawConfig) -> None:
    config = ModelConfig.parse(raw_config())
    with pytest.raises(FrozenInstanceError):
        config.canvas_length = 9


TOP = {
    "model_type": ("gemma4", "model_type is 'gemma4', expected 'diffusion_gemma'"),
    "canvas_length": (0, "canvas_length: got 0; expected at least 1"),
    "text_config": (["x"], r"text_config: got \['x'\]; an object is expected"),
    "vision_config": ("x", "vision_config: got 'x'; an object is expected"),
    "image_token_id": ("<image>", "image_token_id: got '<image>'; a whole number at least 0"),
    "eos_token_id": ([1, "x"], "eos_token_id: got 'x'; a whole number"),
    "tie_word_embeddings": (False, "tie_word_embeddings: got False; only True is supported"),
}
TEXT = {
    "hidden_size": (None, "text_config: required key 'hidden_size' is missing"),
    "num_hidden_layers": (None, "required key 'num_hidden_layers' is missing"),
    "global_head_dim": (None, "required key 'global_head_dim' is missing"),
    "rope_parameters": (None, "required key 'rope_parameters' is missing"),
    "per_layer_config": ([1], r"per_layer_config: got \[1\]; an object is expected"),
    "sliding_window": (0, "text_config.sliding_window: got 0; expected at least 1"),
    "head_dim": ("x", "text_config.head_dim: got 'x'; a whole number at least 1 is expected"),
    "num_experts": (6.5, "num_experts: got 6.5; a whole number"),
    "rms_norm_eps": ([], r"text_config.rms_norm_eps: got \[\]; expected a number above 0"),
    # transformers divides by it: there, too, null gives no network.
    "final_logit_softcapping": (None, "softcapping: got null; a number above 0"),
    "top_k_experts": (7, "top_k_experts: got 7, more than num_experts = 6"),
    "num_key_value_heads": (3, "4 attention heads do not divide among 3 key-value heads"),
    "num_global_key_value_heads": (3, "4 attention heads do not divide among 3"),
    "layer_types": (["full_attention"], "got 1 entries for num_hidden_layers = 3"),
    "hidden_activation": ("silu", "hidden_activation: got 'silu'; only 'gelu_pytorch_tanh'"),
    "attention_bias": (True, "attention_bias: got True; only False is supported"),
    "use_bidirectional_attention": ("all", "got 'all'; only 'vision' is supported"),
    "attn_logit_softcapping": (50.0, r"attn_logit_softcapping: got 50\.0; only None is supported"),
    "hidden_act": ("silu", "hidden_act: got 'silu'; only 'gelu_pytorch_tanh' is supported"),
    "num_experts_per_tok": (4, "num_experts_per_tok: got 4; only 2 is supported"),
    "num_kv_shared_layers": (2, "num_kv_shared_layers: got 2; only 0 is supported"),
    "partial_rotary_factor": (0.5, r"text_config\.partial_rotary_factor: got 0\.5; only None"),
    "rope_scaling": ({"rope_type": "yarn"}, "rope_scaling: got .*; only None is supported"),
}
VISION = {
    "patch_size": (None, "vision_config: required key 'patch_size' is missing"),
    "standardize": ("no", "vision_config.standardize: got 'no'; true or false is expected"),
    "num_hidden_layers": (None, "vision_config: required key 'num_hidden_layers' is missing"),
    "hidden_act": ("silu", "vision_config.hidden_act: got 'silu'; only 'gelu_pytorch_tanh'"),
    "use_clipped_linears": (True, "use_clipped_linears: got True; only False is supported"),
    "num_key_value_heads": (1, "has as many as query heads"),
    "head_dim": (6, "head_dim: got 6; the two-axis rotary embedding needs a multiple of 4"),
}


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        (part, key, value, message)
        for part, cases in ((None, TOP), ("text_config", TEXT), ("vision_config", VISION))
        for key, (value, message) in cases.items()
    ],
)
def test_refusals(
    raw_config: RawConfig, part: str | None, key: str, value: Any, message: str
) -> None:
    raw = raw_config()
    (raw if part is None else raw[part])[key] = value
    with pytest.raises(ValueError, match=message):
        ModelConfig.parse(raw)


def test_end_tokens(raw_config: RawConfig) -> None:
    """The file's own list; without one the text part's; without that, 1."""
    raw = raw_config(eos_token_id=7)
    assert ModelConfig.parse(raw).eos_token_ids == (1, 3)
    raw["eos_token_id"] = None
    assert ModelConfig.parse(raw).eos_token_ids == (7,)
    raw["text_config"]["eos_token_id"] = None
    assert ModelConfig.parse(raw).eos_token_ids == (1,)


def test_unknown_kinds(raw_config: RawConfig) -> None:
    with pytest.raises(ValueError, match="got 'linear_attention'; expected sliding_attention or"):
        ModelConfig.parse(raw_config(layer_types=["linear_attention"] * 3))
    with pytest.raises(ValueError, match="layer_types: got 'sliding'; a list is expected"):
        ModelConfig.parse(raw_config(layer_types="sliding"))
    rope = dict(sliding_attention=dict(rope_theta=1.0, partial_rotary_factor=1.5))
    with pytest.raises(ValueError, match=r"partial_rotary_factor: got 1\.5; expected at most 1"):
        ModelConfig.parse(raw_config(rope_parameters=rope))
    rope = dict(sliding_attention=dict(rope_type="yarn", rope_theta=1.0))
    with pytest.raises(ValueError, match="sliding_attention: rope_type 'yarn' is not one"):
        ModelConfig.parse(raw_config(rope_parameters=rope))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (dict(type="yarn"), "rope_type 'yarn' is not one .* expected default or proportional"),
        (dict(rope_type="axial"), "rope_type 'axial' is not one this model has"),
        (dict(factor=8), r"\.factor: got 8\.0, which rope_type 'default' has not; leave it out"),
        (dict(partial_rotary_factor=0.5), r"partial_rotary_factor: got 0\.5, which rope_type"),
    ],
)
def test_rotations_that_nobody_computes(
    raw_config: RawConfig, rope: dict[str, Any], message: str
) -> None:
    ropes = dict(sliding_attention=dict(rope_theta=1.0) | rope)
    with pytest.raises(ValueError, match=message):
        ModelConfig.parse(raw_config(rope_parameters=ropes))


def test_rotations_of_images(raw_config: RawConfig) -> None:
    raw = raw_config()
    raw["vision_config"]["rope_parameters"]["rope_type"] = "axial"
    assert ModelConfig.parse(raw) == ModelConfig.parse(raw_config())
    raw["vision_config"]["rope_parameters"]["rope_type"] = "proportional"
    with pytest.raises(ValueError, match=r"vision_config.*'proportional' is not one"):
        ModelConfig.parse(raw)


@pytest.mark.parametrize("key", ["head_dim", "global_head_dim"])
def test_rotations_go_by_pairs(raw_config: RawConfig, key: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}: got 15; rotations go by pairs: an even number"):
        ModelConfig.parse(raw_config(**{key: 15}))


def test_full_layers_must_agree(reference: Path) -> None:
    raw = read_json(reference / "config.json")
    raw["text_config"]["per_layer_config"]["3"]["head_dim"] = 64
    with pytest.raises(ValueError, match="the full layers 1, 3 must share one"):
        ModelConfig.parse(raw)
    raw["text_config"]["per_layer_config"]["3"] = 64
    with pytest.raises(ValueError, match=r"per_layer_config\.3: got 64; an object is expected"):
        ModelConfig.parse(raw)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ("[" * 10**5, "not valid JSON"),
        ("9" * 5000, "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
    ],
    ids=["absent", "cut short", "deep", "long", "list"],
)
def test_unreadable_files(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"config.json: {message}"):
        read_json(tmp_path / "config.json")


def test_generation_config_of_the_26b(raw_config: RawConfig) -> None:
    model = ModelConfig.parse(raw_config())
    raw = dict(
        max_new_tokens=256,
        max_denoising_steps=48,
        t_min=0.4,
        t_max=0.8,
        stability_threshold=1,
        sampler_config=dict(_cls_name="EntropyBoundSamplerConfig", entropy_bound=0.1),
        confidence_threshold=0.005,
        eos_token_id=[1, 106, 50],
        pad_token_id=0,
    )
    config = GenerationConfig.parse(raw, model=model)
    # The library's defaults are the released numbers; only the end tokens are the file's.
    assert config == GenerationConfig(eos_token_ids=(1, 106, 50))
    assert config.to_json() == raw
    assert GenerationConfig.parse({}, model=model).eos_token_ids == model.eos_token_ids
    assert GenerationConfig.parse({"eos_token_id": 7}, model=model).eos_token_ids == (7,)


def test_keys_of_other_loops_are_read_past(raw_config: RawConfig) -> None:
    transformers = pytest.importorskip("transformers")
    others = dict.fromkeys(transformers.GenerationConfig().to_dict(), 1)
    others = {
        key: value for key, value in others.items() if key not in GenerationConfig().to_json()
    }
    model = ModelConfig.parse(raw_config(num_experts_per_tok=2, num_kv_shared_layers=0))
    assert {"bos_token_id", "temperature", "min_new_tokens"} <= others.keys()
    assert GenerationConfig.parse(others, model=model) == GenerationConfig(eos_token_ids=(1, 3))


def test_nulls_of_generation_config_take_the_defaults(raw_config: RawConfig) -> None:
    model = ModelConfig.parse(raw_config())
    nulls = dict.fromkeys(GenerationConfig().to_json()) | {"t_max": 1}
    for raw in (nulls, nulls | {"sampler_config": {"entropy_bound": None}}):
        config = GenerationConfig.parse(raw, model=model)
        assert config == GenerationConfig(temperature_start=1, eos_token_ids=(1, 3))


def test_what_gesso_json_says() -> None:
    config = GenerationConfig().with_own({"verify": True})
    assert config == GenerationConfig(verify=True) == GenerationConfig().with_own(config.own_json())
    assert GenerationConfig().with_own({}) == GenerationConfig()
    with pytest.raises(ValueError, match="verfy: there is no such key; known is verify"):
        GenerationConfig().with_own({"verfy": True})
    with pytest.raises(ValueError, match="verify: got 'no'; True or False"):
        GenerationConfig().with_own({"verify": "no"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_new_tokens", 0, "max_new_tokens: got 0; expected at least 1"),
        ("max_denoising_steps", 0, "max_denoising_steps: got 0; expected between 1 and 4096"),
        ("max_denoising_steps", "48", "max_denoising_steps: got '48'; a whole number"),
        ("t_max", 0, r"temperature_start \(t_max\): got 0; expected a number above 0"),
        ("t_max", float("inf"), "got inf; expected a finite number above 0"),
        ("t_max", 10**400, "expected a finite number above 0"),
        ("t_min", float("nan"), r"temperature_end \(t_min\): got nan; .* of at least 0"),
        ("stability_threshold", -1, "stability_threshold: got -1; expected at least 0"),
        ("confidence_threshold", True, "confidence_threshold: got True; expected a number"),
        ("sampler_config", [2.0], r"sampler_config: got \[2.0\]; an object is expected"),
        ("sampler_config", {"entropy_bound": -1}, "entropy_bound: got -1; expected a number"),
        (
            "sampler_config",
            {"_cls_name": "TopKSamplerConfig"},
            "sampler_config._cls_name: got 'TopKSamplerConfig'; only 'EntropyBoundSamplerConfig'",
        ),
        ("sampler_config", {"bound": 0.1}, r"sampler_config\.bound: got 0\.1; the sampler has"),
        ("max_denoising_step", 9, "max_denoising_step: got 9, .* write max_denoising_steps, or"),
        ("stabilty_threshold", 2, "no such key; write stability_threshold, or remove it"),
        ("temperature_start", 0.9, "no such key; write t_max, or remove it"),
        ("entropy_bound", 0.9, r"no such key; write sampler_config\.entropy_bound"),
        ("eos_token_id", "</s>", "eos_token_id: got '</s>'; a whole number"),
        ("pad_token_id", -1, "pad_token_id: got -1; expected at least 0"),
        ("verify", True, "no such key; write it into gesso.json, or remove it"),
    ],
)
def test_what_generation_config_must_not_say(
    raw_config: RawConfig, key: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationConfig.parse({key: value}, model=ModelConfig.parse(raw_config()))

"""The one table between the network's names and the published file's, used to load and to save.

Everything of the shared text stack is stored once, under `model.decoder.`; of the encoder only
its layer scalars are stored (model-spec §2).
"""

from __future__ import annotations

import re

_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "mlp_norm.weight": "pre_feedforward_layernorm.weight",
    "post_mlp_norm.weight": "post_feedforward_layernorm_1.weight",
    "moe_norm.weight": "pre_feedforward_layernorm_2.weight",
    "post_moe_norm.weight": "post_feedforward_layernorm_2.weight",
    "post_norm.weight": "post_feedforward_layernorm.weight",
    "attention.q.weight": "self_attn.q_proj.weight",
    "attention.k.weight": "self_attn.k_proj.weight",
    "attention.v.weight": "self_attn.v_proj.weight",
    "attention.o.weight": "self_attn.o_proj.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
    "router.proj.weight": "router.proj.weight",
    "router.scale": "router.scale",
    "router.per_expert_scale": "router.per_expert_scale",
    "experts.gate_up": "experts.gate_up_proj",
    "experts.down": "experts.down_proj",
    "denoise_scalar": "layer_scalar",
}

_VISION = "model.encoder.vision_tower"

_TOP = {
    "embed.weight": "model.decoder.embed_tokens.weight",
    "norm.weight": "model.decoder.norm.weight",
    "self_conditioning.pre_norm.weight": "model.decoder.self_conditioning.pre_norm.weight",
    "self_conditioning.mlp.gate.weight": "model.decoder.self_conditioning.gate_proj.weight",
    "self_conditioning.mlp.up.weight": "model.decoder.self_conditioning.up_proj.weight",
    "self_conditioning.mlp.down.weight": "model.decoder.self_conditioning.down_proj.weight",
    "vision.patches.input.weight": f"{_VISION}.patch_embedder.input_proj.weight",
    "vision.patches.positions": f"{_VISION}.patch_embedder.position_embedding_table",
    "vision.std_bias": f"{_VISION}.std_bias",
    "vision.std_scale": f"{_VISION}.std_scale",
    "projector.proj.weight": "model.encoder.embed_vision.embedding_projection.weight",
}

_VISION_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "mlp_norm.weight": "pre_feedforward_layernorm.weight",
    "post_mlp_norm.weight": "post_feedforward_layernorm.weight",
    "attention.q.weight": "self_attn.q_proj.linear.weight",
    "attention.k.weight": "self_attn.k_proj.linear.weight",
    "attention.v.weight": "self_attn.v_proj.linear.weight",
    "attention.o.weight": "self_attn.o_proj.linear.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "mlp.gate.weight": "mlp.gate_proj.linear.weight",
    "mlp.up.weight": "mlp.up_proj.linear.weight",
    "mlp.down.weight": "mlp.down_proj.linear.weight",
}

# The linear maps whose rows, one after the other, are an expert's matrix, by the names that they
# have where experts are stored one by one: in few bits (model-spec §9).
_EXPERT = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}

_ENCODER_LAYER = "model.encoder.language_model.layers"
_NUMBER = re.compile(r"(?<=\\\.)\d+")
_NUMBERED = re.compile(r"(vision\.)?layers\.(\d+)\.(.+)")


def published_name(native: str) -> str:
    """The published name of a tensor of `Network.state_dict()`."""
    if native in _TOP:
        return _TOP[native]
    match = _NUMBERED.fullmatch(native)
    assert match, f"no published name for {native}"
    vision, index, rest = match.groups()
    if vision:
        return f"{_VISION}.encoder.layers.{index}.{_VISION_LAYER[rest]}"
    if rest == "encode_scalar":
        return f"{_ENCODER_LAYER}.{index}.layer_scalar"
    return f"model.decoder.layers.{index}.{_LAYER[rest]}"


def published_modules(native: str, *, experts: int) -> list[tuple[str, ...]]:
    """The published linear maps that a weight of `Network.state_dict()` consists of.

    For each of its matrices the modules whose rows it is made of, one after the other; what is
    not a stack of `experts` is one matrix of one module.
    """
    path, _, leaf = published_name(native).rpartition(".")
    if leaf not in _EXPERT:
        assert leaf == "weight"
        return [(path,)]
    return [tuple(f"{path}.{e}.{part}" for part in _EXPERT[leaf]) for e in range(experts)]


def module_pattern(published: str) -> str:
    """The same module of every layer and every expert, as a regular expression that also fits
    readers with other prefixes."""
    inner = re.escape(published.removeprefix("model.decoder."))
    return r".*\b" + _NUMBER.sub(lambda _: r"\d+", inner) + "$"


def is_tied_copy(published: str, known: set[str]) -> bool:
    """Whether a file's tensor is a second copy of one that is stored under another name.

    Some writers store the tied tensors too; readers ignore them (model-spec §2).
    """
    if published == "lm_head.weight":
        return True
    prefix = "model.encoder.language_model."
    return published.startswith(prefix) and (
        "model.decoder." + published.removeprefix(prefix) in known
    )

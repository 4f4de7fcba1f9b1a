"""What a network is, read from config.json here alone.

Both spellings of config.json are read: the released one (`global_head_dim`,
`num_global_key_value_heads`) and the one that transformers >= 5.23 saves (`per_layer_config`).
Nothing falls back on a default that could differ from the weights: a key that shapes a tensor and
is missing is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from gesso.values import (
    only,
    place,
    positive,
    required,
    section,
    size,
    token_id,
    token_ids,
    value_or,
    whole,
)

LayerType = Literal["sliding_attention", "full_attention"]

# Every sixth layer sees everything when the file does not list its layer types (model-spec §1).
_FULL_EVERY = 6


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary embedding of one layer kind: `theta`, and the share of the dimensions that turns.

    `scaling` divides the inverse frequencies ("factor" in the file).
    """

    theta: float
    partial: float = 1.0
    scaling: float = 1.0

    @classmethod
    def parse(
        cls,
        raw: Mapping[str, Any],
        where: str,
        *,
        kinds: Sequence[str] = ("default", "proportional"),
    ) -> RopeConfig:
        kind = value_or(raw, "rope_type", value_or(raw, "type", "default"))
        if kind not in kinds:
            raise ValueError(
                f"{where}: rope_type {kind!r} is not one this model has; "
                f"expected {' or '.join(kinds)}"
            )
        partial = positive(raw, "partial_rotary_factor", where, 1.0)
        if partial > 1:
            raise ValueError(f"{where}.partial_rotary_factor: got {partial}; expected at most 1")
        scaling = positive(raw, "factor", where, 1.0)
        for key, value in (("partial_rotary_factor", partial), ("factor", scaling)):
            # transformers fails at the first and reads past the second.
            if value != 1 and kind != "proportional":
                raise ValueError(
                    f"{where}.{key}: got {value}, which rope_type {kind!r} has not; "
                    "leave it out, or say 'proportional' if it is meant"
                )
        return cls(theta=positive(raw, "rope_theta", where), partial=partial, scaling=scaling)

    def to_json(self) -> dict[str, Any]:
        if self.partial == self.scaling == 1:
            return dict(rope_type="default", rope_theta=self.theta)
        return dict(
            rope_type="proportional",
            rope_theta=self.theta,
            partial_rotary_factor=self.partial,
        ) | ({} if self.scaling == 1 else {"factor": self.scaling})


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The shared text stack (model-spec §1). Sizes in elements; heads of full layers apart."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_global_key_value_heads: int
    global_head_dim: int
    num_experts: int
    top_k_experts: int
    moe_intermediate_size: int
    layer_types: tuple[LayerType, ...]
    sliding_window: int
    max_position_embeddings: int
    sliding_rope: RopeConfig
    full_rope: RopeConfig
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float = 30.0
    pad_token_id: int = 0
    bos_token_id: int = 2

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    def is_full(self, layer: int) -> bool:
        return self.layer_types[layer] == "full_attention"

    def heads(self, layer: int) -> tuple[int, int]:
        """(key-value heads, head dimension) of a layer."""
        if self.is_full(layer):
            return self.num_global_key_value_heads, self.global_head_dim
        return self.num_key_value_heads, self.head_dim

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> TextConfig:
        where = "text_config"
        only(
            raw,
            where,
            attention_bias=(False, None),
            attention_k_eq_v=(True, None),
            attn_logit_softcapping=(None,),
            enable_moe_block=(True, None),
            hidden_act=("gelu_pytorch_tanh", None),
            hidden_activation=("gelu_pytorch_tanh", None),
            num_experts_per_tok=(raw.get("top_k_experts"), None),
            num_kv_shared_layers=(0, None),
            partial_rotary_factor=(None,),
            rope_scaling=(None,),
            tie_word_embeddings=(True, None),
            use_bidirectional_attention=("vision", None),
        )
        layer_types = _layer_types(raw, where)
        ropes = section(raw, "rope_parameters", where)
        global_head_dim, global_kv_heads = _global_heads(raw, layer_types, where)
        number = {
            key: size(raw, key, where)
            for key in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "num_experts",
                "top_k_experts",
                "moe_intermediate_size",
                "sliding_window",
                "max_position_embeddings",
            )
        }
        for key, dim in (("head_dim", number["head_dim"]), ("global_head_dim", global_head_dim)):
            if dim % 2:
                raise ValueError(
                    f"{where}.{key}: got {dim}; rotations go by pairs: an even number is expected"
                )
        if number["top_k_experts"] > number["num_experts"]:
            raise ValueError(
                f"{where}.top_k_experts: got {number['top_k_experts']}, more than "
                f"num_experts = {number['num_experts']}"
            )
        for kv_heads in (number["num_key_value_heads"], global_kv_heads):
            if number["num_attention_heads"] % kv_heads:
                raise ValueError(
                    f"{where}: {number['num_attention_heads']} attention heads do not "
                    f"divide among {kv_heads} key-value heads"
                )
        return cls(
            **number,
            layer_types=layer_types,
            global_head_dim=global_head_dim,
            num_global_key_value_heads=global_kv_heads,
            sliding_rope=RopeConfig.parse(
                section(ropes, "sliding_attention", f"{where}.rope_parameters"),
                f"{where}.rope_parameters.sliding_attention",
            ),
            full_rope=RopeConfig.parse(
                section(ropes, "full_attention", f"{where}.rope_parameters"),
                f"{where}.rope_parameters.full_attention",
            ),
            rms_norm_eps=positive(raw, "rms_norm_eps", where, 1e-6),
            final_logit_softcapping=_softcap(raw, where),
            pad_token_id=token_id(raw, "pad_token_id", where) or 0,
            bos_token_id=2 if (bos := token_id(raw, "bos_token_id", where)) is None else bos,
        )

    def to_json(self) -> dict[str, Any]:
        return dict(
            model_type="diffusion_gemma_text",
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            num_global_key_value_heads=self.num_global_key_value_heads,
            global_head_dim=self.global_head_dim,
            num_experts=self.num_experts,
            top_k_experts=self.top_k_experts,
            moe_intermediate_size=self.moe_intermediate_size,
            layer_types=list(self.layer_types),
            sliding_window=self.sliding_window,
            max_position_embeddings=self.max_position_embeddings,
            rope_parameters=dict(
                sliding_attention=self.sliding_rope.to_json(),
                full_attention=self.full_rope.to_json(),
            ),
            rms_norm_eps=self.rms_norm_eps,
            final_logit_softcapping=self.final_logit_softcapping,
            pad_token_id=self.pad_token_id,
            bos_token_id=self.bos_token_id,
            hidden_activation="gelu_pytorch_tanh",
            attention_bias=False,
            attention_dropout=0.0,
            tie_word_embeddings=True,
            use_bidirectional_attention="vision",
        )


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The image encoder (model-spec §7). Sizes in elements, `patch_size` in pixels."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    head_dim: int
    patch_size: int
    pooling_kernel_size: int
    position_embedding_size: int
    rope_theta: float
    standardize: bool
    rms_norm_eps: float = 1e-6

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> VisionConfig:
        where = "vision_config"
        only(
            raw,
            where,
            attention_bias=(False, None),
            use_clipped_linears=(False, None),
            hidden_act=("gelu_pytorch_tanh", None),
            hidden_activation=("gelu_pytorch_tanh", None),
        )
        number = {
            key: size(raw, key, where)
            for key in (
                "hidden_size",
                "intermediate_size",
                "num_attention_heads",
                "head_dim",
                "patch_size",
                "pooling_kernel_size",
                "position_embedding_size",
            )
        }
        if (
            raw.get("num_key_value_heads", number["num_attention_heads"])
            != (number["num_attention_heads"])
        ):
            raise ValueError(
                f"{where}.num_key_value_heads: got {raw['num_key_value_heads']}; this "
                f"tower has as many as query heads ({number['num_attention_heads']})"
            )
        if number["head_dim"] % 4:
            raise ValueError(
                f"{where}.head_dim: got {number['head_dim']}; the two-axis rotary "
                "embedding needs a multiple of 4"
            )
        # The released file says rope_type "default" and means the two-axis form (trap 27).
        rope = RopeConfig.parse(
            section(raw, "rope_parameters", where),
            f"{where}.rope_parameters",
            kinds=("default", "axial"),
        )
        standardize = required(raw, "standardize", where)
        if not isinstance(standardize, bool):
            raise ValueError(f"{where}.standardize: got {standardize!r}; true or false is expected")
        return cls(
            **number,
            num_layers=_layer_count(raw, where),
            rope_theta=rope.theta,
            standardize=standardize,
            rms_norm_eps=positive(raw, "rms_norm_eps", where, 1e-6),
        )

    def to_json(self) -> dict[str, Any]:
        return dict(
            model_type="gemma4_vision",
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_attention_heads,
            head_dim=self.head_dim,
            patch_size=self.patch_size,
            pooling_kernel_size=self.pooling_kernel_size,
            position_embedding_size=self.position_embedding_size,
            rope_parameters=dict(rope_type="default", rope_theta=self.rope_theta),
            standardize=self.standardize,
            rms_norm_eps=self.rms_norm_eps,
            hidden_activation="gelu_pytorch_tanh",
            attention_bias=False,
            use_clipped_linears=False,
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole checkpoint: text stack, image encoder or None, canvas length and special ids."""

    text: TextConfig
    canvas_length: int
    vision: VisionConfig | None = None
    image_token_id: int | None = None
    boi_token_id: int | None = None
    eoi_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = (1,)
    dtype: str = "bfloat16"

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """From the object of config.json. ValueError names the key that is missing or unfit."""
        if raw.get("model_type") != "diffusion_gemma":
            raise ValueError(
                f"model_type is {raw.get('model_type')!r}, expected 'diffusion_gemma'; this is "
                "not a DiffusionGemma checkpoint"
            )
        only(raw, "", tie_word_embeddings=(True, None))
        text = section(raw, "text_config", "")
        eos = next(
            (ids for part in (raw, text) if (ids := part.get("eos_token_id")) is not None), 1
        )
        vision = section(raw, "vision_config", "") if raw.get("vision_config") else None
        return cls(
            text=TextConfig.parse(text),
            vision=None if vision is None else VisionConfig.parse(vision),
            canvas_length=size(raw, "canvas_length", ""),
            image_token_id=token_id(raw, "image_token_id", ""),
            boi_token_id=token_id(raw, "boi_token_id", ""),
            eoi_token_id=token_id(raw, "eoi_token_id", ""),
            eos_token_ids=token_ids("eos_token_id", eos),
            dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "bfloat16"),
        )

    def to_json(self) -> dict[str, Any]:
        """The object of config.json in the released spelling; `parse` gives the same value back."""
        return dict(
            architectures=["DiffusionGemmaForBlockDiffusion"],
            model_type="diffusion_gemma",
            dtype=self.dtype,
            canvas_length=self.canvas_length,
            image_token_id=self.image_token_id,
            boi_token_id=self.boi_token_id,
            eoi_token_id=self.eoi_token_id,
            eos_token_id=list(self.eos_token_ids),
            tie_word_embeddings=True,
            text_config=self.text.to_json(),
            vision_config=self.vision.to_json() if self.vision else None,
        )


def _softcap(raw: Mapping[str, Any], where: str) -> float:
    key = "final_logit_softcapping"
    if key in raw and raw[key] is None:  # elsewhere null means no cap, which is not computed here
        raise ValueError(f"{where}.{key}: got null; a number above 0 is expected")
    return positive(raw, key, where, 30.0)


def _layer_count(raw: Mapping[str, Any], where: str) -> int:
    """A slip of the pen must not come to layers without end."""
    value = required(raw, "num_hidden_layers", where)
    return whole(place(where, "num_hidden_layers"), value, low=1, high=1000)


def _layer_types(raw: Mapping[str, Any], where: str) -> tuple[LayerType, ...]:
    count = _layer_count(raw, where)
    types = raw.get("layer_types") or [
        "full_attention" if (i + 1) % _FULL_EVERY == 0 else "sliding_attention"
        for i in range(count)
    ]
    if not isinstance(types, list):
        raise ValueError(f"{where}.layer_types: got {types!r:.80}; a list is expected")
    if len(types) != count:
        raise ValueError(
            f"{where}.layer_types: got {len(types)} entries for num_hidden_layers = {count}"
        )
    for kind in types:
        if kind not in ("sliding_attention", "full_attention"):
            raise ValueError(
                f"{where}.layer_types: got {kind!r}; expected sliding_attention or full_attention"
            )
    # The last layer always sees everything, whatever the file says (model-spec §1).
    return cast(tuple[LayerType, ...], (*types[:-1], "full_attention"))


def _global_heads(
    raw: Mapping[str, Any], layer_types: Sequence[LayerType], where: str
) -> tuple[int, int]:
    """(head dimension, key-value heads) of the full layers, from either spelling."""
    if raw.get("per_layer_config"):
        overrides, where = section(raw, "per_layer_config", where), f"{where}.per_layer_config"
        full = [str(i) for i, kind in enumerate(layer_types) if kind == "full_attention"]
        entries = [
            {**raw, **(section(overrides, i, where) if i in overrides else {})} for i in full
        ]
        keys = ("head_dim", "num_key_value_heads")
        found = {tuple(size(entry, key, where) for key in keys) for entry in entries}
        if len(found) != 1:
            raise ValueError(
                f"{where}: the full layers {', '.join(full)} must share one "
                f"head_dim and num_key_value_heads, got {sorted(found)}"
            )
        head_dim, kv_heads = found.pop()
        return head_dim, kv_heads
    kv_heads = raw.get("num_global_key_value_heads") or required(raw, "num_key_value_heads", where)
    return (
        size(raw, "global_head_dim", where),
        whole(f"{where}.num_global_key_value_heads", kv_heads, low=1),
    )

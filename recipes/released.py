"""The released checkpoint: where it is, and its shape, so that a dry run needs no download."""

from __future__ import annotations

from gesso.config import ModelConfig, RopeConfig, TextConfig, VisionConfig

ID = "google/diffusiongemma-26B-A4B-it"

_SLIDING, _FULL = "sliding_attention", "full_attention"

SHAPE = ModelConfig(
    text=TextConfig(
        vocab_size=262144,
        hidden_size=2816,
        intermediate_size=2112,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        num_global_key_value_heads=2,
        global_head_dim=512,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        layer_types=(_SLIDING, _SLIDING, _SLIDING, _SLIDING, _SLIDING, _FULL) * 5,
        sliding_window=1024,
        max_position_embeddings=262144,
        sliding_rope=RopeConfig(theta=1e4),
        full_rope=RopeConfig(theta=1e6, partial=0.25),
    ),
    vision=VisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_layers=27,
        num_attention_heads=16,
        head_dim=72,
        patch_size=16,
        pooling_kernel_size=3,
        position_embedding_size=10240,
        rope_theta=100.0,
        standardize=True,
    ),
    canvas_length=256,
    image_token_id=258880,
    boi_token_id=255999,
    eoi_token_id=258882,
    eos_token_ids=(1, 106),
)

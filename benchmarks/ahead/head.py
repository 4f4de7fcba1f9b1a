"""The head's kernels at the 26B shape, to be compiled for Hopper without one."""

from gesso.kernels.gpu.head import _head_logits_kernel, _read_kernel

_LOGITS = dict(
    hidden_ptr="*bf16", head_ptr="*bf16", temperature_ptr="*fp32", logits_ptr="*bf16",
    parts_ptr="*fp32", argmax_ptr="*i32", rows="i32",
)  # fmt: skip
_READ = dict(
    hidden_ptr="*bf16", head_ptr="*bf16", temperature_ptr="*fp32", uniform_ptr="*fp32",
    parts_ptr="*fp32", tile_argmax_ptr="*i32", log_sum_ptr="*fp32", argmax_ptr="*i64",
    sampled_ptr="*i64", entropy_ptr="*fp32",
)  # fmt: skip
_MODEL = dict(IDS=262_144, WIDTH=2816, COUNT=2048, CAP=30.0)

VARIANTS = [
    dict(
        name="logits of 128 rows and 128 ids",
        kernel=_head_logits_kernel,
        signature=_LOGITS,
        constexprs=dict(**_MODEL, TILE_ROWS=128, TILE_IDS=128, TILE_HIDDEN=64),
        options=dict(num_warps=8, num_stages=3),
    ),
    dict(
        name="what 2048 tiles of a row say",
        kernel=_read_kernel,
        signature=_READ,
        constexprs=dict(**_MODEL, TILES=2048, TILE_IDS=128, STRIP_HIDDEN=64),
        options=dict(num_warps=8, num_stages=3),
    ),
]

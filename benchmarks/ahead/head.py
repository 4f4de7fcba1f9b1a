"""The head's kernels at the 26B shape, to be compiled for Hopper without one."""

from gesso.kernels.gpu.head import _logits_kernel, _read_kernel

_LOGITS = dict(
    hidden_ptr="*bf16", head_ptr="*bf16", temperature_ptr="*fp32", logits_ptr="*bf16",
    parts_ptr="*fp32", argmax_ptr="*i32", rows="i32", ids="i32", width="i32", tiles="i32",
)  # fmt: skip
_READ = dict(
    hidden_ptr="*bf16", head_ptr="*bf16", temperature_ptr="*fp32", uniform_ptr="*fp32",
    parts_ptr="*fp32", tile_argmax_ptr="*i32", log_sum_ptr="*fp32", argmax_ptr="*i64",
    sampled_ptr="*i64", entropy_ptr="*fp32", highest_ptr="*fp32", log_sum_exp_ptr="*fp32",
    ids="i32", width="i32", tiles="i32",
)  # fmt: skip

VARIANTS = [
    dict(
        name="head: logits of 128 rows and 128 ids",
        kernel=_logits_kernel,
        signature=_LOGITS,
        constexprs=dict(CAP=30.0, TILE_ROWS=128, TILE_IDS=128, TILE_HIDDEN=64),
        options=dict(num_warps=8, num_stages=3),
    ),
    dict(
        name="head: what 2048 tiles of a row say",
        kernel=_read_kernel,
        signature=_READ,
        constexprs=dict(CAP=30.0, TILES=2048, TILE_IDS=128, STRIP_HIDDEN=64),
        options=dict(num_warps=8, num_stages=3),
    ),
]

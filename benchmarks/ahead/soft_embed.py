"""The soft embedding's kernels at the 26B shape, to be compiled for Hopper without one."""

from gesso.kernels.gpu.soft_embed import _add_kernel, _soft_span_kernel

_TILES = dict(TILE_ROWS=128, TILE_WIDTH=256, TILE_IDS=64)

VARIANTS = [
    dict(
        name="one of 6 spans, 128 rows by 256 columns",
        kernel=_soft_span_kernel,
        signature=dict(
            logits_ptr="*bf16", log_sum_ptr="*fp32", embedding_ptr="*bf16", sums_ptr="*fp32",
            rows="i32",
        ),
        constexprs=dict(IDS=262_144, WIDTH=2816, SPAN=683, **_TILES),
        options=dict(num_warps=8, num_stages=3),
    ),
    dict(
        name="the sum of 6 spans",
        kernel=_add_kernel,
        signature=dict(sums_ptr="*fp32", out_ptr="*bf16", size="i32", scale="fp32"),
        constexprs=dict(SPANS=6, TILE=1024),
        options=dict(num_warps=4, num_stages=3),
    ),
]  # fmt: skip

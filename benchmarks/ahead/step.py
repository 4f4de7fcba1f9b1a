"""A step's small end at the 26B shape, to be compiled for Hopper without one."""

from gesso.kernels.gpu.step import _advance_kernel, _draw_kernel

_BATCH = dict(
    argmax_ptr="*i64", entropy_ptr="*fp32", sampled_ptr="*i64", seeds_ptr="*i64",
    canvas_ptr="*i64", steps_ptr="*i64", bound_ptr="*fp32", stability_ptr="*i64",
    confidence_ptr="*fp32", tokens_ptr="*i64", earlier_ptr="*i64",
    step_ptr="*i64", finished_ptr="*i1", accepted_ptr="*i1", length="i32", ids="i32",
)  # fmt: skip
_DRAW = dict(
    seeds_ptr="*i64", canvas_ptr="*i64", step_ptr="*i64", out_ptr="*fp32", length="i32",
)  # fmt: skip

VARIANTS = [
    dict(
        name="advance a canvas of 256",
        kernel=_advance_kernel,
        signature=_BATCH,
        constexprs=dict(STREAM=2, MEMORY=1, LENGTH=256, CHUNK=16),
        options=dict(num_warps=8, num_stages=3),
    ),
    dict(
        name="uniforms",
        kernel=_draw_kernel,
        signature=_DRAW,
        constexprs=dict(STREAM=1, TILE=256),
        options=dict(num_warps=4, num_stages=3),
    ),
]

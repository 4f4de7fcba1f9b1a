"""The expert product's kernels at the 26B shape, for one canvas and for many tokens."""

from gesso.kernels.gpu.experts import (
    combine_kernel,
    down_kernel,
    gate_up_kernel,
    group_kernel,
    launch_options,
    tile_rows,
)
from gesso.kernels.gpu.unpack import step_columns

# Codes, scales and the group of a layer's two kinds of rows: 2816 and 704 inputs.
STORED = dict(
    plain=("*bf16", "*bf16", 1, 1),
    fp8=("*i32", "*bf16", 2816, 704),
    nvfp4=("*i32", "*fp8e4nv", 16, 16),
    int4=("*i32", "*bf16", 128, 64),
)


def _variants(form: str, widest: int) -> list[dict]:
    codes, scale, up, down = STORED[form]
    matrix = dict(codes=codes, scale=scale, whole="*fp32")
    rows = dict(order="*i32", starts="*i32")
    sizes = dict(
        M=2816, F=704, FORMAT=form, ROWS=tile_rows(form), STEP=step_columns(form), WIDEST=widest
    )
    kernels = (
        ("gate_up", gate_up_kernel, dict(h="*bf16", x="*bf16", **rows, **matrix, k="i32"), up),
        ("down", down_kernel, dict(y="*bf16", h="*bf16", **rows, share="*fp32", **matrix), down),
    )
    return [
        dict(
            name=f"{name} {form}, {widest} tokens",
            kernel=kernel,
            signature=signature,
            constexprs=sizes | dict(GROUP=group, WHOLES=1),
            options=launch_options(form, widest),
        )
        for name, kernel, signature, group in kernels
    ]


VARIANTS = [
    dict(
        name="group",
        kernel=group_kernel,
        signature=dict(order="*i32", starts="*i32", index="*i64", pairs="i32", experts="i32"),
        constexprs=dict(CHUNK=1024),
        options={},
    ),
    dict(
        name="combine",
        kernel=combine_kernel,
        signature=dict(out="*bf16", y="*bf16", k="i32"),
        constexprs=dict(M=2816, COLUMNS=1024),
        options={},
    ),
    *(variant for form in STORED for widest in (32, 64) for variant in _variants(form, widest)),
]

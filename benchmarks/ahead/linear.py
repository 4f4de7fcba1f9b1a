"""The linear maps' kernels at the 26B shape: 2816 inputs, and 2112 of a dense down projection."""

from gesso.kernels.gpu.linear import linear_kernel
from gesso.kernels.gpu.unpack import step_columns

# Tokens, codes and scales, and the groups of rows of 2816 and of 2112.
STORED = dict(
    plain=("*bf16", "*bf16", "*bf16", 1, 1),
    fp8=("*bf16", "*i32", "*bf16", 2816, 2112),
    nvfp4=("*bf16", "*i32", "*fp8e4nv", 16, 16),
    int4=("*bf16", "*i32", "*bf16", 128, 64),
)
TILES = ((64, 64, 4), (128, 64, 8), (128, 128, 8))


def _variant(form: str, inputs: int, rows: int, tokens: int, warps: int) -> dict:
    x, codes, scale, wide, narrow = STORED[form]
    return dict(
        name=f"linear {form}, {inputs} inputs, {rows} x {tokens}",
        kernel=linear_kernel,
        signature=dict(
            y="*bf16", x=x, codes=codes, scale=scale, whole="*fp32",
            tokens="i32", out="i32",
        ),
        constexprs=dict(
            K=inputs, FORMAT=form, GROUP=wide if inputs == 2816 else narrow, WHOLES=1,
            ROWS=rows,
            TOKENS=tokens, STEP=step_columns(form),
        ),
        options=dict(num_warps=warps, num_stages=3),
    )  # fmt: skip


VARIANTS = [
    *(_variant(form, 2816, *tiles) for form in STORED for tiles in TILES),
    *(_variant(form, 2112, *TILES[0]) for form in STORED),
]

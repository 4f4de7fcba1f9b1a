"""The gated activation of the dense MLP at the 26B shape, for `benchmarks/compile_kernels.py`."""

from __future__ import annotations

from gesso.kernels.gpu.geglu import _geglu_kernel

VARIANTS = [
    dict(
        name="geglu",
        kernel=_geglu_kernel,
        signature=dict(gate="*bf16", up="*bf16", out="*bf16", stride_g="i32", stride_u="i32")
        | dict.fromkeys(("F", "BLOCK"), "constexpr"),
        constexprs=dict(F=2112, BLOCK=1024),
        # Pointers and strides are multiples of 16, as the launcher finds them.
        attrs={(i,): [["tt.divisibility", 16]] for i in range(5)},
        options=dict(num_warps=4),
    )
]

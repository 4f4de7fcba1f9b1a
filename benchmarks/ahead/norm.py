"""Norms at the 26B shape, for `benchmarks/compile_kernels.py`: rows of 2816 values."""

from __future__ import annotations

from typing import Any

from gesso.kernels.gpu.norm import _enter_kernel, _leave_kernel, _norm_kernel


def _variant(name: str, kernel: Any, **constexprs: int) -> dict[str, Any]:
    constexprs |= dict(M=2816, BLOCK=4096)
    kinds = {"eps": "fp32", "stride": "i32"} | dict.fromkeys(constexprs, "constexpr")
    signature = {name: kinds.get(name, "*bf16") for name in kernel.arg_names}
    return dict(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs=constexprs,
        # Pointers and the stride are multiples of 16, as the launcher finds them.
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, kind in enumerate(signature.values())
            if kind in ("*bf16", "i32")
        },
        options=dict(num_warps=8),
    )


VARIANTS = [
    _variant("rms_norm", _norm_kernel, WEIGHTED=True),
    _variant("enter_feed_forward", _enter_kernel),
    _variant("leave_feed_forward", _leave_kernel, NEXT=True),
]

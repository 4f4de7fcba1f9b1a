"""Norms and rotation of q, k and v at the 26B shape, for `benchmarks/compile_kernels.py`."""

from __future__ import annotations

from typing import Any

from gesso.kernels.gpu.rope import _heads_kernel


def _variant(name: str, **constexprs: int) -> dict[str, Any]:
    kinds = {"eps": "fp32"} | dict.fromkeys(constexprs, "constexpr")
    integers = [n for n in _heads_kernel.arg_names if n in ("new", "turn_b") or "stride_" in n]
    kinds |= dict.fromkeys(integers, "i32")
    signature = {name: kinds.get(name, "*bf16") for name in _heads_kernel.arg_names}
    return dict(
        name=name,
        kernel=_heads_kernel,
        signature=signature,
        constexprs=constexprs,
        # Pointers and strides are multiples of 16, as the launcher finds them.
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, kind in enumerate(signature.values())
            if kind not in ("fp32", "constexpr")
        },
        options=dict(num_warps=4),
    )


VARIANTS = [
    _variant(
        "sliding", H=16, K=8, HALF=128, SHARED=False, BLOCK_H=16, BLOCK_K=8, BLOCK_D=128,
    ),
    _variant(
        "full", H=16, K=2, HALF=256, SHARED=True, BLOCK_H=8, BLOCK_K=2, BLOCK_D=256,
    ),
]  # fmt: skip

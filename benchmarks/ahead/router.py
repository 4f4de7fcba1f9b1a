"""The router at the 26B shape, for `benchmarks/compile_kernels.py`: 8 of 128 experts."""

from __future__ import annotations

from typing import Any

from gesso.kernels.gpu.router import _choose_kernel, _router_logits_kernel


def _variant(
    name: str, kernel: Any, kinds: dict[str, str], constexprs: dict[str, Any], **options: int
) -> dict[str, Any]:
    signature = {name: kinds.get(name, "constexpr") for name in kernel.arg_names}
    return dict(
        name=name,
        kernel=kernel,
        signature=signature,
        constexprs=constexprs,
        # Pointers and a canvas's tokens are multiples of 16, as the launcher finds them.
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(kinds))},
        options=options,
    )


VARIANTS = [
    _variant(
        "logits", _router_logits_kernel,
        dict(x="*bf16", weight="*bf16", parts="*fp32", tokens="i32"),
        dict(M=2816, E=128, SHARE=384, BLOCK_T=16, BLOCK_E=128, BLOCK_M=128, PRECISION="tf32"),
        num_warps=4, num_stages=3,
    ),
    _variant(
        "choice", _choose_kernel,
        dict(parts="*fp32", scale="*bf16", index_out="*i64", weight_out="*fp32", tokens="i32"),
        dict(E=128, PARTS=8, CHOSEN=8, BLOCK_T=4, BLOCK_E=128, BLOCK_K=8), num_warps=4,
    ),
]  # fmt: skip

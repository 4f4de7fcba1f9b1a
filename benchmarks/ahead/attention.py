"""Attention at the 26B shape, for `benchmarks/compile_kernels.py`: 16 query heads, canvas 256."""

from __future__ import annotations

from typing import Any

from gesso.kernels.gpu.canvas_attention import _canvas_kernel
from gesso.kernels.gpu.online_softmax import _combine_kernel
from gesso.kernels.gpu.span_attention import _span_attention_kernel

_WIDE = {"out": "*fp32", "best_out": "*fp32", "total_out": "*fp32"}
_STRIDES = dict.fromkeys(("stride_qb", "stride_qh", "stride_qn", "stride_b", "stride_k"), "i32")
_STRIDES["stride_s"] = "i32"
# (kv heads, head dim) of the two kinds of layer, and the tiles that `_choose_tiles` gives them.
_LAYERS = {
    "sliding": (8, 256, dict(BLOCK_M=128, BLOCK_N=32), dict(num_warps=8, num_stages=3)),
    "full": (2, 512, dict(BLOCK_M=64, BLOCK_N=32), dict(num_warps=8, num_stages=2)),
}


def _variant(
    name: str, kernel: Any, layer: str, splits: int, extra: dict[str, str], kept: str = "*bf16"
) -> Any:
    kv_heads, dim, tiles, options = _LAYERS[layer]
    constexprs = dict(
        K=kv_heads, G=16 // kv_heads, D=dim, SPLITS=splits, BLOCK_D=dim, PRECISION="tf32",
        NARROW=kept != "*bf16", **tiles,
    )  # fmt: skip
    pointers = {"query": "*bf16", "keys": kept, "values": kept}
    written = _WIDE if splits > 1 else dict.fromkeys(_WIDE, "*bf16")
    signature = pointers | extra | written | {"batch": "i32"} | _STRIDES
    order = kernel.arg_names
    signature = {name: signature.get(name, "constexpr") for name in order}
    return dict(
        name=f"{name}, {layer}, {splits} splits",
        kernel=kernel,
        signature=signature,
        constexprs={name: value for name, value in constexprs.items() if name in order},
        # Pointers and strides are multiples of 16, as the launcher finds them.
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(order)
            if signature[name].startswith("*") or name.startswith("stride")
        },
        options=options,
    )


_CANVAS = {
    "canvas_keys": "*bf16",
    "canvas_values": "*bf16",
    "length": "*i32",
    "canvas": "i32",
    "stride_cb": "i32",
    "stride_ck": "i32",
    "stride_cs": "i32",
}
_SPAN = {"begins": "*i32", "ends": "*i32", "new": "i32"}

VARIANTS = [
    _variant("canvas", _canvas_kernel, "sliding", 4, _CANVAS),
    _variant("canvas", _canvas_kernel, "full", 2, _CANVAS),
    _variant("canvas, cache in fp8", _canvas_kernel, "sliding", 4, _CANVAS, "*fp8e4nv"),
    _variant("canvas, cache in fp8", _canvas_kernel, "full", 2, _CANVAS, "*fp8e4nv"),
    _variant("span", _span_attention_kernel, "sliding", 1, _SPAN),
    _variant("span", _span_attention_kernel, "full", 1, _SPAN),
    dict(
        name="combine, full, 2 splits",
        kernel=_combine_kernel,
        signature=dict(parts="*fp32", best_in="*fp32", total_in="*fp32", out="*bf16", rows="i32")
        | dict.fromkeys(("D", "SPLITS", "BLOCK_M", "BLOCK_D"), "constexpr"),
        constexprs=dict(D=512, SPLITS=2, BLOCK_M=4, BLOCK_D=512),
        attrs={(i,): [["tt.divisibility", 16]] for i in range(5)},
        options=dict(num_warps=4),
    ),
]

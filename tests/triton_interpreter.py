"""Triton's interpreter, mended where it does not compute what the hardware computes, or slowly."""

from types import SimpleNamespace
from typing import Any

import torch


def mend() -> None:
    """Triton 3.9's interpreter cuts float32 short where the hardware rounds to bfloat16, loses
    bfloat16's subnormals and a carry into e4m3's exponent, and computes with bfloat16 as if its
    bits were integers: after this it does none of these."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, to_small, dot, binary = (
        InterpreterBuilder.cast_impl,
        InterpreterBuilder.create_fp_to_fp,
        InterpreterBuilder.create_dot,
        InterpreterBuilder.binary_op,
    )

    def faithful_cast(self: Any, source: Any, to: Any) -> Any:
        kinds = (source.dtype.scalar, to.scalar)
        if kinds == (tl.float32, tl.bfloat16):
            rounded = torch.tensor(source.data).bfloat16()  # to nearest, ties to even
            return TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            bits = source.data.astype("uint32") << 16
            return TensorHandle(bits.view("float32"), tl.float32)
        return cast(self, source, to)

    def faithful_fp_to_fp(self: Any, source: Any, to: Any, rounding: Any) -> Any:
        if (source.dtype.scalar, to.scalar) == (tl.float32, tl.float8e4nv):
            rounded = torch.tensor(source.data).to(torch.float8_e4m3fn)
            return TensorHandle(rounded.view(torch.uint8).numpy(), tl.float8e4nv)
        return to_small(self, source, to, rounding)

    def wide_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [
            faithful_cast(self, t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t
            for t in (a, b)
        ]
        return dot(self, *wide, *rest)

    def wide_binary(self: Any, a: Any, b: Any, op: Any) -> Any:
        if a.dtype.scalar != tl.bfloat16:
            return binary(self, a, b, op)
        wide = [faithful_cast(self, t, tl.float32) for t in (a, b)]
        result = binary(self, *wide, op)
        return faithful_cast(self, result, tl.bfloat16) if result.dtype == tl.float32 else result

    InterpreterBuilder.cast_impl = faithful_cast
    InterpreterBuilder.create_fp_to_fp = faithful_fp_to_fp
    InterpreterBuilder.create_dot = wide_dot
    InterpreterBuilder.binary_op = wide_binary


def hasten() -> None:
    """It replaces the whole language by its own at every call of a function by a kernel, and never
    puts it back, and makes a table of twenty dtypes at every operation: a third of its time. Once
    a launch, and once a dtype, are enough."""
    from triton import language as tl
    from triton.runtime import interpreter

    replace_language, find_dtype = interpreter._patch_lang, interpreter._get_np_dtype
    everything = SimpleNamespace(__globals__=dict(tl=tl, core=tl.core))
    dtypes: dict[str, Any] = {}

    def call(self: Any, *args: Any, **keys: Any) -> Any:
        return self.rewrite()(*args, **keys)

    def known_dtype(kind: Any) -> Any:
        name = str(kind)
        if name not in dtypes:
            dtypes[name] = find_dtype(kind)
        return dtypes[name]

    interpreter._patch_lang = lambda kernel: replace_language(everything)
    interpreter.InterpretedFunction.__call__ = call
    interpreter._get_np_dtype = known_dtype

"""Triton kernels on the machine's GPU, or without one under Triton's interpreter."""

import os
from typing import Any

import pytest
import torch

# Triton decides at import, so this comes before any test imports a kernel.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True, scope="session")
def _faithful_small_floats() -> None:
    """Triton 3.9's interpreter cuts float32 short where the hardware rounds to bfloat16, loses
    bfloat16's subnormals and a carry into e4m3's exponent, and computes with bfloat16 as if its
    bits were integers: here it does none of these."""
    if not os.environ.get("TRITON_INTERPRET"):
        return
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

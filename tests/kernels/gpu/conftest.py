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
def _faithful_bfloat16() -> None:
    """Triton 3.9's interpreter cuts float32 short where the hardware rounds to bfloat16, and
    multiplies bfloat16 matrices as if their bits were integers: here it does neither."""
    if not os.environ.get("TRITON_INTERPRET"):
        return
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounding_cast(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            rounded = torch.tensor(source.data).bfloat16()  # to nearest, ties to even
            return TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)
        return cast(self, source, to)

    def wide_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [cast(self, t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b)]
        return dot(self, *wide, *rest)

    InterpreterBuilder.cast_impl = rounding_cast
    InterpreterBuilder.create_dot = wide_dot

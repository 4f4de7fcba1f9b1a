"""Whether this machine can build the compiled passes, and what their products can read."""

import shutil

import pytest
import torch

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="compiled passes need a C++ compiler",
)

# What compiled passes compute products in.
PRODUCTS = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not torch.cpu._is_avx512_bf16_supported(),
            reason="products that read bfloat16 need AVX512_BF16",
        ),
    ),
]

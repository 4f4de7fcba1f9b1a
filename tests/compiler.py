"""Whether this machine can build the compiled passes."""

import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="compiled passes need a C++ compiler",
)

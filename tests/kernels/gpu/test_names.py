"""Kernels' names: a profile knows them by nothing else."""

import re
from pathlib import Path

import gesso.kernels


def test_every_kernel_has_a_name_of_its_own() -> None:
    sources = Path(gesso.kernels.__file__).with_name("gpu").glob("*.py")
    names = [
        name
        for source in sources
        for name in re.findall(r"@triton\.jit[^\n]*\ndef (\w+_kernel)\(", source.read_text())
    ]
    assert len(names) > 10
    assert sorted(names) == sorted(set(names))

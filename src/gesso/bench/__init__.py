"""Benchmarks: what is compared takes turns in one run."""

from gesso.bench.generate import bench_generate
from gesso.bench.serve import bench_serve

__all__ = ["bench_generate", "bench_serve"]

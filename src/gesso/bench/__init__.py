"""Benchmarks: what is compared takes turns in one run."""

from gesso.bench.generate import bench_generate
from gesso.bench.serve import bench_serve
from gesso.bench.step import bench_step

__all__ = ["bench_generate", "bench_serve", "bench_step"]

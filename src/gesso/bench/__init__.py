"""Benchmarks: gesso beside its peers, in turn, in one run."""

from gesso.bench.generate import bench_generate

__all__ = ["bench_generate"]

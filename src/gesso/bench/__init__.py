"""Benchmarks: what is compared takes turns in one run."""

from gesso.bench.generate import bench_generate
from gesso.bench.plot import plot_report
from gesso.bench.prefill import bench_prefill
from gesso.bench.serve import bench_serve
from gesso.bench.step import bench_step
from gesso.bench.subject import Subject
from gesso.bench.sweep import bench_sweep
from gesso.bench.work import PROTOCOLS, Work

__all__ = [
    "PROTOCOLS",
    "Subject",
    "Work",
    "bench_generate",
    "bench_prefill",
    "bench_serve",
    "bench_step",
    "bench_sweep",
    "plot_report",
]

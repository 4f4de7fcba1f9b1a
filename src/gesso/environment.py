"""The machine: which device to take, and what a measurement was made with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """For a report; serialises to JSON. commit is None outside a git checkout, and ends in
    "+changes" where the tree differs from it."""
    return {
        "gesso": version("gesso"),
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
    } | (_gpu() if torch.cuda.is_available() else {})


def pick_device(name: str) -> torch.device:
    """ "auto" takes a GPU when there is one. One that is named by number becomes the current one,
    where kernels are launched. ValueError for a device that is not to be had."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # there, and with values
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device: got {name!r}, which is not to be had here ({error})") from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix products in it are at least as fast as in float32, else float32.

    On a CPU without instructions for them they take some fifty times as long.
    """
    fast = device.type != "cpu" or (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if fast else torch.float32


def _commit() -> str | None:
    commit = _git("rev-parse", "HEAD")
    changed = commit and _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changed else commit or None


def _gpu() -> dict[str, Any]:
    """What a GPU's figures depend on. gpus: driver, largest clock of the multiprocessors, and power
    limit, as nvidia-smi tells them; None without it."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    asked = ["driver_version", "clocks.max.sm", "power.limit"]
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    return {"triton": triton, "cuda": torch.version.cuda, "gpus": _said(*command) or None}


def _git(*words: str) -> str:
    return _said("git", "-C", str(Path(__file__).resolve().parent), *words)


def _said(*command: str) -> str:
    """What a program prints; nothing where it is not there, or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

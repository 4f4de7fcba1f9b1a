"""network_pass.cpp as a library: built once for this machine, and what it takes, in ctypes.

The structures repeat those of interface.h, field by field.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

_SOURCE = Path(__file__).with_name("network_pass.cpp")
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast", "-shared", "-fPIC",
)  # fmt: skip


class Matrix(Structure):
    """A packed matrix: `panels` as `pack` gives them, with the depth and outputs of these."""

    _fields_ = (("panels", c_void_p), ("depth", c_int64), ("outputs", c_int64))


class LayerWeights(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "full")),
        *(
            (name, c_void_p)
            for name in (
                "attention_norm", "post_attention_norm", "mlp_norm", "post_mlp_norm", "moe_norm",
                "post_moe_norm", "post_norm", "q_norm", "k_norm",
            )
        ),
        *((name, Matrix) for name in ("qkv", "o", "gate", "up", "down")),
        *((name, c_void_p) for name in ("router_scale", "expert_scale")),
        *((name, Matrix) for name in ("router", "expert_gate", "expert_up", "expert_down")),
        ("scalar", c_float * 2),
    )  # fmt: skip


class NetworkWeights(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "hidden", "vocabulary", "experts", "chosen")),
        *((name, c_float) for name in ("eps", "embed_scale", "softcap")),
        ("layer", POINTER(LayerWeights)),
        *((name, c_void_p) for name in ("embed", "final_norm", "soft_norm")),
        *((name, Matrix) for name in ("soft_gate", "soft_up", "soft_down", "head", "embedding")),
    )


class LayerColumns(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "bias")),
        ("cached", c_int64),
    )


class Work(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "length", "threads", "window", "halves")),
        ("tokens", c_void_p),
        *((name, c_void_p * 2) for name in ("cos", "sin")),
        ("columns", POINTER(LayerColumns)),
        *((name, c_void_p) for name in ("soft", "temperature")),
        *((name, c_void_p) for name in ("probabilities", "entropy", "argmax", "soft_out")),
        ("hidden", c_void_p),
    )


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., N, depth) of any dtype -> panels (..., panels, depth / g, PANEL, g), N and depth filled
    up; g is 1 in float32 and 2 in bfloat16."""
    panel, group = library().gesso_panel(), torch.float32.itemsize // dtype.itemsize
    rows, depth = weight.shape[-2:]
    filled = F.pad(weight.detach().to(dtype), (0, -depth % group, 0, -rows % panel))
    panels = filled.unflatten(-2, (-1, panel)).unflatten(-1, (-1, group))
    return panels.transpose(-3, -2).contiguous()


def products_of(dtype: torch.dtype) -> torch.dtype:
    """What products read for a network in this dtype: bfloat16 for one in bfloat16, where the CPU
    has instructions for it, else float32."""
    narrow = dtype == torch.bfloat16 and library().gesso_has_bfloat16()
    return torch.bfloat16 if narrow else torch.float32


def is_available() -> bool:
    """Whether `library` loads; builds it."""
    try:
        library()
    except ValueError:
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """`build`, loaded. ValueError as there, and where the system does not load it."""
    built = build()
    try:
        loaded = ctypes.CDLL(str(built))
    except OSError as error:  # a folder from which nothing may run, for one
        raise ValueError(
            f"compile: {built} does not load ({error}); set XDG_CACHE_HOME to another folder, or "
            "leave compile out"
        ) from error
    loaded.gesso_has_bfloat16.restype = ctypes.c_bool
    loaded.gesso_pass.restype = ctypes.c_bool
    if loaded.gesso_has_bfloat16():
        loaded.gesso_pass_bfloat16.restype = ctypes.c_bool
    return loaded


def build() -> Path:
    """The library's file: some seconds on first use, then kept in the user's cache folder.

    ValueError: there is no C++ compiler, or it fails.
    """
    compiler = _compiler()
    built = _file(compiler)
    if built.exists():
        return built
    # In a folder of its own: other processes may be building the same.
    with tempfile.TemporaryDirectory(dir=built.parent) as place:
        temporary = Path(place) / built.name
        done = subprocess.run(
            [*compiler, *_FLAGS, str(_SOURCE), "-o", str(temporary)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise ValueError(f"compile: {shlex.join(compiler)} failed ({said}); leave it out")
        temporary.replace(built)
    return built


def _file(compiler: Sequence[str]) -> Path:
    """Named after all that it is made of: sources, flags, the compiler, and what -march=native
    stands for here."""
    macros = subprocess.run(
        [*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull],
        capture_output=True,
        check=False,
    ).stdout
    sources = b"".join(path.read_bytes() for path in (_SOURCE, *sorted(_SOURCE.parent.glob("*.h"))))
    key = hashlib.sha256(sources + macros + " ".join(_FLAGS).encode()).hexdigest()
    return _folder() / f"network_pass-{key[:16]}.so"


def _compiler() -> list[str]:
    named = os.environ.get("CXX")
    for name in [named] if named else _COMPILERS:
        words = shlex.split(name)
        if words and shutil.which(words[0]):
            return words
    raise ValueError(
        "compile: no C++ compiler was found; install one (g++, clang), or leave compile out"
    )


def _users_cache() -> Path | None:
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None


def _folder() -> Path:
    for place in (_users_cache(), Path(tempfile.gettempdir())):
        if place is None:
            continue
        folder = place / "gesso"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError:
            continue
        # What lies there is run: it must be of nobody else's making.
        own = found.st_uid == os.getuid() and not found.st_mode & 0o002
        if own and os.access(folder, os.W_OK):
            return folder
    raise ValueError("compile: no folder to keep the built library in; set XDG_CACHE_HOME")

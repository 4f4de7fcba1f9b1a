"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gesso.generation.model import DiffusionGemma

# What a command's `add` gets: where its parser goes. argparse keeps the type to itself.
Commands = Any

_NUMBERS: tuple[tuple[str, type, str], ...] = (
    ("max-new-tokens", int, "most tokens of the answer"),
    ("canvas-length", int, "tokens refined together, at most the checkpoint's"),
    ("max-denoising-steps", int, "most steps a canvas may take"),
    ("entropy-bound", float, "nats that the tokens accepted in one step may hold together"),
    ("temperature-start", float, "temperature of a canvas's first step"),
    ("temperature-end", float, "what it falls towards; that of the step behind the last"),
    ("stability", int, "earlier drafts that must equal the last one before a canvas may end"),
    ("confidence", float, "mean entropy, in nats, below which a canvas may end"),
    ("time-budget", float, "seconds after which the canvas in work is finished as it stands"),
)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="tiny",
        metavar="M",
        help="a checkpoint's folder, a hub id, or an embedded one: tiny (default), sudoku9, infill",
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="a LoRA adapter for it, as gesso train or PEFT writes them"
    )
    parser.add_argument(
        "--quantize", metavar="FORMAT", help="hold the weights as fp8, nvfp4 or int4"
    )
    add_kv_cache_dtype(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--dtype", default="auto", help="auto (default), float32, bfloat16 or float16"
    )
    add_compile(parser)
    add_threads(parser)


def add_kv_cache_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kv-cache-dtype", default="auto", metavar="D", help="auto (default), or fp8: half of bf16"
    )


def add_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default="auto",
        help="passes in C++ on a CPU: several times as fast (default: where a compiler is found)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=_thread_count, metavar="N", help="CPU threads; by default all"
    )


def named_path(text: str) -> Path:
    """An empty name, as of a variable that was not set, is not the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("got ''; give a name")
    return Path(text)


def _thread_count(text: str) -> int:
    # Where threads find no memory the process ends without a word: a slip must not come to that.
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number from 1 to 1024")
    return int(text)


def add_generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generation", "by default as the checkpoint says")
    for name, kind, text in _NUMBERS:
        group.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of all randomness (0)")
    group.add_argument(
        "--no-adaptive-stop", action="store_true", help="every canvas takes all its steps"
    )
    group.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="canvases are drafts of what the causal pass writes, token for token",
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends the answer; repeatable"
    )
    group.add_argument("--system", metavar="TEXT", help="the system message")
    group.add_argument("--thinking", action="store_true", help="let the model reason first")
    group.add_argument(
        "--mode",
        choices=("diffusion", "autoregressive"),
        default="diffusion",
        help="canvases (default), or the same weights token by token",
    )
    group.add_argument(
        "--watch",
        type=float,
        default=0.08,
        metavar="SECONDS",
        help="hold each draft at least this long on a terminal (0.08)",
    )


def load_model(args: argparse.Namespace) -> DiffusionGemma:
    from gesso.engine.answers import load
    from gesso.terminal.progress import Waiting

    set_threads(args)
    with Waiting(f"loading {args.model}"):
        return load(
            args.model,
            adapter=args.adapter,
            quantize=args.quantize,
            kv_cache_dtype=args.kv_cache_dtype,
            device=args.device,
            dtype=args.dtype,
            compile=args.compile,
        )


def system_message(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What a conversation begins with: --system, or nothing."""
    return [{"role": "system", "content": args.system}] if args.system else []


def print_json(value: Any) -> None:
    """On one line; letters that stdout cannot write are spelt as JSON spells them."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    print(json.dumps(value, ensure_ascii=encoding != "utf8"))


def set_threads(args: argparse.Namespace) -> None:
    if args.threads is None:
        return
    import torch

    torch.set_num_threads(args.threads)


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords for `DiffusionGemma.stream`, checked: a mistake must not wait for the weights."""
    from gesso.generation.request import Parameters

    if not 0 <= args.watch <= 3600:
        raise ValueError(f"--watch: got {args.watch}; expected 0 to 3600 seconds")
    if args.verify and args.mode == "autoregressive":
        raise ValueError(
            "--verify is for canvases, and --mode autoregressive has none; drop one of the two, "
            "the answer is the same"
        )
    names = [name.replace("-", "_") for name, _, _ in _NUMBERS] + ["verify"]
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    given |= dict(seed=args.seed, stop=tuple(args.stop), adaptive_stop=not args.no_adaptive_stop)
    Parameters(**given)
    return given | dict(thinking=args.thinking, mode=args.mode)

"""`gesso bench`: speed, measured in turns with a peer so that both meet the same machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.cli.options import Commands, add_compile, add_kv_cache_dtype, add_threads, print_json
from gesso.files import replacing

if TYPE_CHECKING:
    from gesso.bench import Subject

_PLOT = ".png"
_NETWORK = ("random", "quantize", "kv_cache_dtype", "device", "dtype")


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        parents=parents,
        help="measure speed",
        allow_abbrev=False,
        description="Measure wall-clock speed in rounds, alone or beside a peer.",
    )
    kinds = parser.add_subparsers(dest="what", required=True, metavar="generate|serve|step|prefill")
    generate = _add(kinds, parents, "generate", "one user: wall tokens per second, and a peer's")
    _add_peer(generate)
    generate.add_argument("--steps", type=int, default=16, metavar="N", help="of a canvas (16)")
    serve = _add(kinds, parents, "serve", "many users of one engine: throughput and latency")
    serve.add_argument(
        "--users", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N",
        help="at once (1 2 4 8 16)",
    )  # fmt: skip
    serve.add_argument(
        "--requests", type=int, default=48, metavar="N", help="a level and round (48)"
    )
    serve.add_argument(
        "--context", type=int, metavar="N",
        help="tokens of random prompts, in place of a task's (with --random 1024)",
    )  # fmt: skip
    serve.add_argument(
        "--steps", type=int, metavar="N", help="of a canvas behind random prompts (16)"
    )
    serve.add_argument(
        "--canvases", type=int, metavar="N", help="of an answer to random prompts (4)"
    )
    serve.add_argument(
        "--cap", metavar="SIZE", help="all that may be taken of a GPU's memory, as 18GB"
    )
    _add_network(serve, dtype="float32 on a CPU, the checkpoint's own elsewhere")
    add_compile(serve)
    step = _add(kinds, parents, "step", "one denoising step: its time, the floor, a breakdown")
    _add_network(step)
    step.add_argument("--rows", type=int, default=1, metavar="N", help="canvases in a step (1)")
    step.add_argument(
        "--context", type=int, default=1024, metavar="N", help="tokens before a canvas (1024)"
    )
    step.add_argument("--steps", type=int, default=16, metavar="N", help="of a canvas (16)")
    step.add_argument("--canvases", type=int, default=4, metavar="N", help="of an answer (4)")
    step.add_argument(
        "--vary", choices=("rows", "context", "steps"), help="measure at several of these"
    )
    step.add_argument("--over", type=int, nargs="+", metavar="N", help="which, with --vary")
    step.add_argument(
        "--protocol", choices=("vllm-2026-06",), help="rows, context, steps and canvases by name"
    )
    _add_peer(step)
    prefill = _add(kinds, parents, "prefill", "long prompts in chunks: time and memory")
    _add_network(prefill)
    prefill.add_argument(
        "--tokens", type=int, nargs="+", default=[1024, 8192], metavar="N",
        help="of the prompts (1024 8192)",
    )  # fmt: skip
    prefill.add_argument(
        "--chunk", type=int, default=1024, metavar="N", help="encoded at a time (1024)"
    )


def _add_peer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", choices=("transformers",), help="whom to measure beside")


def _add_network(
    parser: argparse.ArgumentParser,
    *,
    dtype: str = "bfloat16 where the device has products for it",
) -> None:
    """dtype: what "auto" stands for."""
    parser.add_argument("--random", action="store_true", help="random weights of the model's shape")
    parser.add_argument("--quantize", metavar="FORMAT", help="fp8, nvfp4 or int4")
    add_kv_cache_dtype(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float32"), default="auto",
        help=f"auto (default): {dtype}",
    )  # fmt: skip


def _add(
    kinds: Commands, parents: Sequence[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, parents=parents, help=about, description=about, allow_abbrev=False
    )
    parser.add_argument("--model", default="tiny", metavar="M", help="as in gesso generate")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also write the report here, and a plot beside it"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from gesso.bench import plot_report
    from gesso.terminal.progress import CountBar

    if args.out is not None:
        _check_out(args.out)
    with CountBar() as bar:
        report = _measure(args, lambda done, total: bar.step("rounds", done, total))
    # Shown before it is written: what was measured is not lost to a disk that is full.
    if args.json:
        print_json(report)
    else:
        from gesso.terminal.tables import print_bench

        print_bench(report)
    if args.out is not None:
        with replacing(args.out) as path:
            path.write_text(json.dumps(report, ensure_ascii=False) + "\n", encoding="utf-8")
        plot_report(report, args.out.with_suffix(_PLOT))
    return 0


def _check_out(file: Path) -> None:
    """ValueError for a file that no report could be written to."""
    if not file.resolve().parent.is_dir():
        raise ValueError(f"--out: no such folder {file.parent}; make it first")
    if file.is_dir():
        raise ValueError(f"--out: got {file}, a folder; give the name of a file")
    if file.suffix == _PLOT:
        raise ValueError(f"--out: got {file}, which is the plot's name; name the report X.json")
    try:
        tempfile.TemporaryFile(dir=file.resolve().parent).close()
    except OSError as error:
        raise ValueError(
            f"--out: {file} cannot be written ({error.strerror}); choose another folder"
        ) from None


def _measure(args: argparse.Namespace, on_round: Callable[[int, int], None]) -> dict[str, Any]:
    from gesso.bench import (
        PROTOCOLS,
        Work,
        bench_generate,
        bench_prefill,
        bench_serve,
        bench_step,
        bench_sweep,
    )

    common: dict[str, Any] = dict(threads=args.threads, on_round=on_round)
    if args.what == "step":
        if (args.vary is None) != (args.over is None):
            raise ValueError("--vary and --over: got one of them; give both, or neither")
        amounts = _picked(args, "rows", "context", "steps", "canvases", "rounds")
        work = Work(**amounts | PROTOCOLS.get(args.protocol, {}))
        if args.vary is None:
            return bench_step(_subject(args), work, peer=args.peer, **common)
        if args.peer is not None:
            raise ValueError("--peer and --vary: got both; measure a peer at one width at a time")
        return bench_sweep(_subject(args), work, vary=args.vary, values=args.over, **common)
    common["rounds"] = args.rounds
    if args.what == "prefill":
        return bench_prefill(_subject(args), **_picked(args, "tokens", "chunk"), **common)
    if args.what == "serve":
        names = ("users", "requests", "context", "steps", "canvases", "cap", "compile")
        return bench_serve(_subject(args), **_picked(args, *names), **common)
    return bench_generate(args.model, peer=args.peer, steps=args.steps, **common)


def _subject(args: argparse.Namespace) -> Subject:
    from gesso.bench import Subject

    return Subject(source=args.model, **_picked(args, *_NETWORK))


def _picked(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names}

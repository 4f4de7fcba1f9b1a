"""`gesso bench`: speed, measured in turns with a peer so that both meet the same machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from gesso.cli.options import Commands, add_threads


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        parents=parents,
        help="measure speed",
        allow_abbrev=False,
        description="Measure wall-clock speed in rounds, alone or beside a peer.",
    )
    parser.add_argument("what", choices=("generate",), metavar="generate")
    parser.add_argument("--model", default="tiny", metavar="M", help="as in gesso generate")
    parser.add_argument("--peer", choices=("transformers",), help="whom to measure beside")
    parser.add_argument("--steps", type=int, default=16, metavar="N", help="of a canvas (16)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")
    parser.add_argument(
        "--compile", action="store_true", help="gesso's compiled steps too; a minute more"
    )
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from gesso.bench import bench_generate
    from gesso.terminal.progress import CountBar

    if args.out is not None and not args.out.resolve().parent.is_dir():
        raise ValueError(f"--out: no such folder {args.out.parent}; make it first")
    with CountBar() as bar:
        report = bench_generate(
            args.model,
            peer=args.peer,
            steps=args.steps,
            rounds=args.rounds,
            threads=args.threads,
            compile=args.compile,
            on_round=lambda done, total: bar.step("rounds", done, total),
        )
    text = json.dumps(report, ensure_ascii=False)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    if args.json:
        print(text)
    else:
        from gesso.terminal.tables import print_bench

        print_bench(report)
    return 0

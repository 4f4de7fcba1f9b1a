"""`gesso convert`: a checkpoint written anew, in few bits."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.cli.options import Commands, add_threads, named_path, print_json, set_threads

if TYPE_CHECKING:
    from torch import Tensor

    from gesso.tasks import Task
    from gesso.terminal.progress import CountBar


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "convert",
        parents=parents,
        help="write a checkpoint in few bits",
        allow_abbrev=False,
        description="Write a checkpoint in few bits, in the layout of compressed-tensors, a "
        "matrix at a time.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, a hub id, or an embedded one")
    parser.add_argument("--out", type=named_path, required=True, metavar="FOLDER", help="where to")
    parser.add_argument(
        "--adapter", type=named_path, metavar="DIR", help="a LoRA adapter for it, merged in"
    )
    parser.add_argument(
        "--quantize",
        metavar="FORMAT",
        help="of the experts: fp8, nvfp4 or int4; the other linear maps of the text stack get "
        "fp8. Without it, a copy in files of the size asked for",
    )
    parser.add_argument(
        "--calibrate",
        metavar="TASK",
        help="answer prompts of a task, or of a JSONL file of your own examples, and round by what "
        "the layers read meanwhile; holds the wide network",
    )
    parser.add_argument(
        "--prompts", type=int, default=32, metavar="N", help="so many, with --calibrate (32)"
    )
    parser.add_argument(
        "--shard-bytes",
        type=float,
        default=1e9,
        metavar="N",
        help="most bytes a file, and about what is held in memory (1e9)",
    )
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="what was written, as a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from gesso.checkpoint import convert_checkpoint, resolve
    from gesso.tasks import get_task
    from gesso.terminal.progress import CountBar

    if not 1 <= args.shard_bytes < 1e18:
        raise ValueError(f"--shard-bytes: got {args.shard_bytes}; expected at least 1")
    if args.calibrate is not None and args.quantize is None:
        raise ValueError("--calibrate: says how weights are rounded; give --quantize FORMAT too")
    if args.prompts < 1:
        raise ValueError(f"--prompts: got {args.prompts}; expected at least 1")
    set_threads(args)
    source = resolve(args.source)
    with CountBar() as bar:
        moments = None
        if args.calibrate is not None:
            moments = partial(_moments, args, source, get_task(args.calibrate), bar)
        convert_checkpoint(
            source,
            args.out,
            adapter=args.adapter,
            quantize=args.quantize,
            moments=moments,
            max_shard_bytes=int(args.shard_bytes),
            on_piece=lambda done, total: bar.step("matrices", done, total),
        )
    before, after = (_bytes(folder) for folder in (source, args.out))
    if args.json:
        report = dict(
            folder=str(args.out), quantize=args.quantize, bytes=after, source_bytes=before
        )
        print_json(report)
    else:
        print(f"{args.out}: {after / 1e6:,.1f} MB, from {before / 1e6:,.1f} MB")
    return 0


def _moments(
    args: argparse.Namespace, source: Path, task: Task, bar: CountBar
) -> dict[str, Tensor]:
    """What the layers read while the task's first prompts are answered."""
    from gesso.generation.calibrate import second_moments
    from gesso.generation.model import load

    split = "train" if "train" in task.splits else next(iter(task.splits))
    examples = itertools.islice(task.examples(split=split, seed=0), args.prompts)
    prompts = [example.prompt for example in examples]
    moments = second_moments(
        load(source, adapter=args.adapter),
        prompts,
        on_answer=lambda done, total: bar.step("answers", done, total),
    )
    return {name: moment.cpu() for name, moment in moments.items()}


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

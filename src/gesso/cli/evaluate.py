"""`gesso eval`: a task's held-out examples, answered and judged."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gesso.cli.options import Commands, add_model, load_model, print_json


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "eval",
        parents=parents,
        help="measure a model on a task",
        allow_abbrev=False,
        description="Measure a model on a task: accuracy beside its cost, in all modes.",
    )
    parser.add_argument(
        "task", metavar="TASK", help="extract, ..., or a JSONL file of your own examples"
    )
    add_model(parser)
    parser.add_argument("--n", type=int, default=500, metavar="N", help="examples a split (500)")
    parser.add_argument(
        "--split", action="append", metavar="S", help="repeatable; by default all but train"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the examples (0)")
    parser.add_argument(
        "--mode",
        action="append",
        choices=("diffusion", "verified", "autoregressive"),
        help="repeatable; by default all: canvases, canvases that the causal pass verifies, and "
        "the same weights token by token",
    )
    parser.add_argument(
        "--rows", type=int, default=1, metavar="N", help="canvases denoised together (1)"
    )
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from gesso.evaluation import MODES, evaluate
    from gesso.tasks import get_task
    from gesso.terminal.progress import CountBar

    task = get_task(args.task)
    model = load_model(args)
    with CountBar() as bar:
        report = evaluate(
            model,
            task,
            n=args.n,
            seed=args.seed,
            splits=args.split,
            rows=args.rows,
            modes=args.mode or MODES,
            on_example=lambda mode, split, done, total: bar.step(f"{split}, {mode}", done, total),
        )
    if args.json:
        print_json(report)
    else:
        from gesso.terminal.tables import print_evaluation

        print_evaluation(report)
    return 0

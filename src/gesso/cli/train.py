"""`gesso train`: run a recipe in a folder.

A folder that holds a run is continued, never overwritten; one whose state is gone is refused.
`--resume` insists on a run to continue, `--fresh` on a folder without one.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gesso.cli.options import Commands, add_threads, named_path, print_json, set_threads
from gesso.training.run_folder import LOG, check_folder, holds_run

if TYPE_CHECKING:
    from gesso.training.config import TrainConfig
    from gesso.training.trainer import StepLog, Trainer


# The function that a recipe's file defines when no other is asked for.
_DEFAULT = "recipe"


class _StoppedError(Exception):
    """Ctrl-C or SIGTERM, told between two steps."""


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        parents=parents,
        help="train from a recipe",
        allow_abbrev=False,
        description="Train from a recipe. A folder that holds a run is continued, never "
        "overwritten; Ctrl-C saves.",
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a Python file with a function recipe() that returns a TrainConfig; FILE:NAME calls "
        "another function of it",
    )
    parser.add_argument(
        "--out",
        type=named_path,
        metavar="DIR",
        help="the run's folder; without it runs/FILE, or runs/FILE-NAME, after the recipe",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing: print parameters, memory and the least time",
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: print it as JSON")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of the recipe's")
    parser.add_argument("--seed", type=int, metavar="N", help="in place of the recipe's")
    parser.add_argument(
        "--data",
        type=named_path,
        metavar="PATH",
        help="what to train on in place of the recipe's tasks and data: a JSONL file, whose lines "
        'hold "messages", or "prompt" and "completion"; a folder of them, or of text files. The '
        "recipe's evaluation is kept if it is on a file",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out bad lines and files",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--resume", action="store_true", help="DIR must hold a run to continue")
    which.add_argument("--fresh", action="store_true", help="DIR must not hold a run")
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.json and not args.dry_run:
        raise ValueError(f"--json: goes with --dry-run; a run writes its figures to {LOG}")
    set_threads(args)
    given = {name: getattr(args, name) for name in ("steps", "seed")}
    changes = {name: value for name, value in given.items() if value is not None}
    config = replace(load_recipe(args.recipe), **changes)
    dropped = None
    if args.data is not None:
        config = replace(config, tasks={}, data={args.data: 1.0})
        if config.evaluation is not None and not config.evaluation.task.endswith(".jsonl"):
            dropped, config = config.evaluation.task, replace(config, evaluation=None)
    if args.skip_bad:
        config = replace(config, skip_bad=True)
    if args.dry_run:
        return _dry_run(config, as_json=args.json)
    if args.out is None:
        file, name = _path_and_name(args.recipe)
        args.out = Path("runs") / (file.stem if name == _DEFAULT else f"{file.stem}-{name}")
    _check_folder(args)
    from gesso.training.trainer import Trainer

    trainer = Trainer(config, args.out)
    first = trainer.processes.first
    if dropped is not None and first:
        print(
            f"--data: the recipe's evaluation on {dropped} is left out; give the recipe one whose "
            "task is a .jsonl file to have this judged",
            file=sys.stderr,
        )
    for path, count in trainer.skipped.items():
        if count and first:
            print(f"{path}: left out {count:,} bad lines or files", file=sys.stderr)
    if trainer.resume() and first:
        done = trainer.step >= config.steps
        where = f"step {trainer.step:,} of {config.steps:,}"
        said = f"already at {where}: nothing to do" if done else f"resuming at {where}"
        print(said, file=sys.stderr)
    if stopped_by := _train(trainer):
        if first:
            _say_how_to_resume(trainer.step, args)
        # Who ends a job with SIGTERM wants it to end well.
        return 0 if stopped_by == signal.SIGTERM else 128 + stopped_by
    if not first:
        return 0
    if config.evaluation is not None and trainer.step < config.steps:
        print(
            f"ended at step {trainer.step:,} of {config.steps:,}: no better judgement in "
            f"{config.evaluation.patience}",
            file=sys.stderr,
        )
    made = trainer.shipped()
    print(f"{made.name}: {made}")
    if config.evaluation is not None:
        print(f"best judged: {trainer.shipped(best=True)}")
    return 0


def _dry_run(config: TrainConfig, *, as_json: bool) -> int:
    from gesso.training.plan import report

    found = report(config)
    if as_json:
        print_json(found)
    else:
        from gesso.terminal.tables import print_plan

        print_plan(found)
        widest = found["rows"]["widest"]
        print(f"activations are those of a chunk's widest batch, {widest:,} tokens a row")
    return 0


def load_recipe(recipe: str) -> TrainConfig:
    """What the function `recipe` of a file returns, or with FILE:NAME the one of that name.

    The folder above the recipe's own is importable meanwhile: recipes import each other as
    `from recipes.x import y`. ValueError: no such file or function, or a fault in it.
    """
    from gesso.training.config import TrainConfig

    path, name = _path_and_name(recipe)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a recipe is a file with a function recipe()")
    spec = importlib.util.spec_from_file_location(f"<recipe> {path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file; the name of a recipe ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Under a name that no import has: dataclasses look their module up.
    sys.modules[module.__name__] = module
    above = str(path.resolve().parent.parent)
    # Last, so that no file of that folder hides a module of the same name.
    sys.path.append(above)
    try:
        spec.loader.exec_module(module)
        make = getattr(module, name, None)
        if not callable(make):
            raise ValueError(f"{path}: no function {name}(); define one that returns a TrainConfig")
        config = make()
    except (ValueError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: the recipe fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(above)
    if not isinstance(config, TrainConfig):
        got = type(config).__name__
        raise ValueError(f"{path}: {name}() returns {got}; expected a TrainConfig")
    return config


def _path_and_name(recipe: str) -> tuple[Path, str]:
    """The file and the function of FILE:NAME."""
    file, _, name = recipe.rpartition(":")
    # A drive's letter is no file, and what follows it no name.
    return (Path(file), name) if file and name.isidentifier() else (Path(recipe), _DEFAULT)


def _check_folder(args: argparse.Namespace) -> None:
    check_folder(args.out)
    begun = holds_run(args.out)
    if args.resume and not begun:
        raise ValueError(f"{args.out}: holds no run to resume; drop --resume to begin one")
    if args.fresh and begun:
        raise ValueError(
            f"{args.out}: holds a run, and --fresh overwrites nothing; "
            "give another folder, remove this one, or drop --fresh to continue it"
        )


def _train(trainer: Trainer) -> int | None:
    """Train to the end; the signal's number when one ended it, with the state saved."""
    from gesso.terminal.progress import TrainingBar

    processes = trainer.processes
    bar = TrainingBar(done=trainer.step, total=trainer.config.steps)
    with _deferred_signals() as pressed, bar if processes.first else nullcontext():

        def on_step(log: StepLog) -> None:
            # All stop after the same step, whoever was told first; and before anything is drawn,
            # for the terminal may be what has gone.
            if processes.any(bool(pressed)):
                raise _StoppedError
            if processes.first:
                bar.step(log)

        try:
            trainer.run(on_step=on_step)
        except _StoppedError:
            trainer.save()
            return pressed[0] if pressed else signal.SIGTERM
    return None


@contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Notes Ctrl-C, SIGTERM and the end of the terminal's session in the list it gives; a second
    Ctrl-C interrupts as usual.

    In the middle of an update the weights are not a state to save; between two steps they are.
    """
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup has it ignored, and Windows has none.
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_how_to_resume(step: int, args: argparse.Namespace) -> None:
    words = ["gesso", "train", args.recipe, "--out", str(args.out)]
    words += [
        f"--{name}={value}"
        for name in ("steps", "seed", "threads", "data")
        if (value := getattr(args, name)) is not None
    ]
    words += ["--skip-bad"] * args.skip_bad
    print(f"stopped after step {step:,}; to resume: {shlex.join(words)}", file=sys.stderr)

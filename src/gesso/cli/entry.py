"""`gesso`: finds the command, runs it, and turns every failure into one line and an exit code.

    0  done
    1  a failure of ours
    2  a user's mistake
    130  Ctrl-C
    141  whoever read the output has gone (as with `| head`)

argparse, and not a library that makes options out of types: `--help` then takes no time, and an
error is one line like all others.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import gesso
from gesso.cli import bench, chat, convert, evaluate, generate, info, train

_ABOUT = "Runtime and fine-tuning toolkit for DiffusionGemma, the block-diffusion language model."

_COMMANDS = (generate, chat, info, train, evaluate, bench, convert)


class _UsageError(ValueError):
    """A command line that does not parse."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's own; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_stdout()
        return 141
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        with contextlib.suppress(BrokenPipeError):
            print(f"gesso: {_line(error)}", file=sys.stderr, flush=True)
        try:
            sys.stdout.flush()
        except OSError:  # of a disk that is full
            _drop_stdout()
        return 2 if isinstance(error, ValueError) else 1


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--debug", action="store_true", help="show where an error comes from, not only its line"
    )
    top = _Parser(prog="gesso", parents=[shared], description=_ABOUT, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"gesso {gesso.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for command in _COMMANDS:
        command.add(commands, parents=[shared])
    return top


def _run(words: Sequence[str]) -> int:
    top = parser()
    try:
        args = top.parse_args(words)
    except SystemExit as done:  # after --help and --version
        return int(done.code or 0)
    if args.command is None:
        top.print_help()
        return 0
    code = args.run(args)
    assert isinstance(code, int)
    return code


def _prepare_streams() -> None:
    """One that the caller closed is empty, and no byte or letter that the locale lacks ends a
    command halfway: of stdin it is refused with the prompt, on stdout it is spelt."""
    # Open to the end of the process, so that no file of ours takes the number of a closed stream.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _line(error: Exception) -> str:
    """The error on one line; what is not a user's mistake says its kind, and how to see more."""
    from gesso.terminal.screen import printable

    text = printable(" ".join(str(error).split()))
    if isinstance(error, ValueError):
        return text
    kind = type(error).__name__
    return f"{kind}: {text} (--debug shows where)" if text else f"{kind} (--debug shows where)"


def _drop_stdout() -> None:
    """So that the interpreter does not fail once more when it flushes at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

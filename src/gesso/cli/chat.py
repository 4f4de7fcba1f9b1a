"""`gesso chat`: a conversation. In a pipe every line is a turn, and the answers alone come out."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gesso.cli.generate import print_stream
from gesso.cli.options import (
    Commands,
    add_generation,
    add_model,
    generation_options,
    load_model,
    system_message,
)

if TYPE_CHECKING:
    from gesso.generation.events import Result

_WELCOME = "/reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an answer"
# A line that begins so is meant for us; one that begins with a path is not.
_COMMAND = re.compile(r"/\w+(?=\s|$)")

Message = dict[str, Any]
Answer = Callable[[list[Message]], "Result"]


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "chat",
        parents=parents,
        help="talk with a model",
        allow_abbrev=False,
        description=f"Talk with a model: {_WELCOME}. Piped in, every line is a turn. The embedded "
        "tiny has learned single turns: give it /reset before each sentence but the first.",
    )
    add_model(parser)
    add_generation(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from gesso.terminal.screen import console_for, is_terminal

    options = generation_options(args)
    model = load_model(args)
    if model.processor.template is None:
        raise ValueError(f"{args.model}: this checkpoint has no chat template; use gesso generate")
    start = system_message(args)
    if not (sys.stdin.isatty() and is_terminal(sys.stdout)):
        converse(start, map(_unended, sys.stdin), lambda m: print_stream(model, m, options))
        return 0
    from gesso.terminal.live import show

    console = console_for(sys.stdout)
    console.print(_WELCOME, style="dim")

    def answer(messages: list[Message]) -> Result:
        return show(model, messages, console=console, watch=args.watch, **options)

    converse(start, _typed(), answer, patient=True)
    return 0


def converse(
    start: list[Message], turns: Iterator[str], answer: Answer, *, patient: bool = False
) -> None:
    """Answer turn after turn, each with all that was said before it.

    A turn that was cancelled, or that failed, leaves no trace in the conversation; an unknown word
    with a slash is none. patient: a user's mistake is told and the conversation goes on.
    """
    messages = list(start)
    for text in turns:
        match text.strip():
            case "":
                continue
            case "/quit":
                return
            case "/reset":
                messages = list(start)
                continue
        turn = {"role": "user", "content": text}
        try:
            _refuse_command(text.strip())
            result = answer([*messages, turn])
        except ValueError as error:
            if not patient:
                raise
            print(f"gesso: {error}", file=sys.stderr)
            continue
        if result.finish_reason != "cancelled":
            messages += [turn, {"role": "assistant", "content": result.text}]


def _refuse_command(text: str) -> None:
    if _COMMAND.match(text):
        raise ValueError(f"got {text!r:.80}; known words, each on a line of its own: {_WELCOME}")


def _typed() -> Iterator[str]:
    """Lines from the keyboard, with editing and recall; Ctrl-C clears the line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() edits lines once this is imported
    while True:
        try:
            yield input("› ")
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return


def _unended(line: str) -> str:
    return line.rstrip("\n")

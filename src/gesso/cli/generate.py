"""`gesso generate`: one prompt, one answer.

On a terminal the canvas is live; in a pipe there is the text and nothing else, canvas by canvas.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gesso.cli import lines
from gesso.cli.options import (
    Commands,
    add_generation,
    add_model,
    generation_options,
    load_model,
    print_json,
    system_message,
)

if TYPE_CHECKING:
    from gesso.generation.events import Result
    from gesso.generation.model import DiffusionGemma, Prompt


def add(commands: Commands, *, parents: Sequence[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "generate",
        parents=parents,
        help="answer a prompt",
        allow_abbrev=False,
        description="Answer a prompt. Text on stdin is put after PROMPT, on a line of its own.",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT")
    parser.add_argument(
        "--lines",
        metavar="FILE",
        help="answer every line of FILE (- for stdin) that is not blank, a line each in their "
        "order; an answer with line breaks is printed as a JSON string; --time-budget is for all",
    )
    add_model(parser)
    add_generation(parser)
    parser.add_argument("--raw", action="store_true", help="the prompt as it stands, no template")
    parser.add_argument("--json", action="store_true", help="the whole result as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.lines is not None:
        return _answer_lines(args)
    text = _prompt_text(args.prompt)
    options = generation_options(args) | {"raw": args.raw}
    prompt = _prompt(text, args)
    model = load_model(args)
    if args.json:
        result = model.generate(prompt, **options)
        print_json(_to_json(result, args))
        return 0
    return answer(model, prompt, watch=args.watch, options=options)


def answer(model: DiffusionGemma, prompt: Prompt, *, watch: float, options: dict[str, Any]) -> int:
    from gesso.terminal.screen import console_for, is_terminal

    if not is_terminal(sys.stdout):
        print_stream(model, prompt, options)
        return 0
    from gesso.terminal.live import show

    result = show(model, prompt, console=console_for(sys.stdout), watch=watch, **options)
    return 130 if result.finish_reason == "cancelled" else 0


def print_stream(model: DiffusionGemma, prompt: Prompt, options: dict[str, Any]) -> Result:
    """The answer's text alone, each canvas when it is finished, and a newline at the end. To the
    letter, but on a screen, also one that shows no live canvas."""
    from gesso.generation.events import Draft, End
    from gesso.terminal.screen import printable

    watched, last = sys.stdout.isatty(), ""
    for event in model.stream(prompt, **options):
        if isinstance(event, Draft):
            continue
        print(printable(event.text) if watched else event.text, end="", flush=True)
        last = event.text or last
        if isinstance(event, End):
            print("" if last.endswith("\n") else "\n", end="", flush=True)
            return event.result
    raise AssertionError("a stream ends with End")


def _answer_lines(args: argparse.Namespace) -> int:
    from gesso.terminal.screen import printable

    if args.prompt is not None:
        raise ValueError(f"--lines: got PROMPT {args.prompt!r:.80} beside it; give one of the two")
    options = generation_options(args) | {"raw": args.raw}
    if options.pop("mode") == "autoregressive":
        raise ValueError(
            "--lines: the mode autoregressive answers one prompt at a time; --verify gives the same"
        )
    read = lines.read_lines(args.lines)
    prompts = [_prompt(line.text, args) for line in read]
    model = load_model(args)
    lines.check(model, read, prompts, options)
    for result in lines.answers(model, prompts, options):
        if args.json:
            print_json(_to_json(result, args))
        else:
            text = lines.on_one_line(result.text)
            print(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
    return 0


def _prompt_text(argument: str | None) -> str:
    """The argument, and what is piped in after it."""
    piped = "" if sys.stdin.isatty() else sys.stdin.read().rstrip("\n")
    parts = [part for part in (argument, piped) if part]
    if not parts:
        raise ValueError('no prompt; give one as in gesso generate "...", or pipe it in')
    return "\n".join(parts)


def _prompt(text: str, args: argparse.Namespace) -> Prompt:
    system = system_message(args)
    if not system:
        return text
    if args.raw:
        raise ValueError(
            "--system is put in place by the chat template, which --raw leaves out; "
            "drop one of the two"
        )
    return [*system, {"role": "user", "content": text}]


def _to_json(result: Result, args: argparse.Namespace) -> dict[str, Any]:
    stats = result.stats
    return dict(
        text=result.text,
        reasoning=result.reasoning,
        tool_calls=[call._asdict() for call in result.tool_calls],
        token_ids=list(result.token_ids),
        finish_reason=result.finish_reason,
        stats=asdict(stats)
        | dict(
            tokens_per_forward=stats.tokens_per_forward, tokens_per_second=stats.tokens_per_second
        ),
        model=args.model,
        seed=args.seed,
    )

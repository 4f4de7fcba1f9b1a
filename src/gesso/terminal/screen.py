"""Whether somebody is watching a stream, and a rich console that believes the same."""

from __future__ import annotations

import os
import re
from typing import TextIO

from rich.console import Console

# Wide enough that no table is folded: whoever reads a pipe wants one row a line.
_PIPE_WIDTH = 400

# All control characters but newline and tab.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_terminal(stream: TextIO) -> bool:
    """A terminal that can move its cursor; anything else gets pure text."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def console_for(stream: TextIO) -> Console:
    """Colours and cursor moves on a terminal only, whatever FORCE_COLOR says of a pipe. Brackets
    and colons in what is printed are text, not rich's markup."""
    if is_terminal(stream):
        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        if not console.width:  # COLUMNS may say so, and nothing would be shown
            console.width = 80
        return console
    return Console(
        file=stream, highlight=False, markup=False, emoji=False, force_terminal=False,
        color_system=None, width=_PIPE_WIDTH,
    )  # fmt: skip


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control characters become a visible stand-in.

    A model may write an escape sequence; it must not reach the screen as one.
    """
    return _CONTROL.sub("\ufffd", text)

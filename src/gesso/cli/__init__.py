"""The command line: parse, call, print. One file a command; the work is done by the library."""

from gesso.cli.entry import main

__all__ = ["main"]

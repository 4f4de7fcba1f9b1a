"""Who is watching, and what may reach them."""

import io

import pytest

from gesso.terminal.screen import console_for, is_terminal, printable
from tests.terminal.conftest import Terminal


def test_a_dumb_terminal_is_none(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_terminal(terminal)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(terminal)


def test_a_pipe_gets_no_colour_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    assert not is_terminal(pipe)
    console_for(pipe).print("x", "y" * 200, style="bold red")
    assert pipe.getvalue() == "x " + "y" * 200 + "\n"


def test_a_terminal_without_a_width_has_one(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    console_for(terminal).print("x")
    assert "x" in terminal.getvalue()


def test_printable_replaces_control_characters_alone() -> None:
    assert printable("a\x1b[0m\r\x07\x9b") == "a\ufffd[0m\ufffd\ufffd\ufffd"
    assert printable("Zoë\t東\n👩‍🔬\u00a0") == "Zoë\t東\n👩‍🔬\u00a0"

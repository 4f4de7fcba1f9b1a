"""A tokenizer that reads like text, and a stream that says it is a terminal."""

import io
from importlib import resources
from pathlib import Path

import pytest

from gesso.processor import Processor

TINY = Path(str(resources.files("gesso") / "assets" / "tiny"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="session")
def processor() -> Processor:
    """The tokenizer and template of the embedded checkpoint."""
    return Processor.load(TINY)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """80 columns, 24 lines, every colour."""
    for name, value in dict(TERM="xterm-256color", COLUMNS="80", LINES="24").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()

"""A checkpoint on disk that answers in milliseconds, and the command line run in this process."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gesso.checkpoint import save_checkpoint
from gesso.cli import main
from gesso.generation_config import GenerationConfig
from gesso.model.network import Network
from gesso.processor import Processor
from tests.terminal.conftest import TINY
from tests.terminal.conftest import terminal as terminal


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs words as a command line with `stdin` piped in; no error may be more than a line."""

    def run_words(*words: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        if code in (1, 2) and "--debug" not in words:
            assert err.startswith("gesso: ")
            assert err.count("\n") == 1
            assert "Traceback" not in out + err
        return Outcome(code, out, err)

    return run_words


@pytest.fixture
def checkpoint(make_network: Callable[..., Network], tmp_path: Path) -> Path:
    """Random weights, the embedded tokenizer and template, two canvases of 5 tokens an answer."""
    folder = tmp_path / "checkpoint"
    vocabulary = Processor.load(TINY).tokenizer.vocab_size
    save_checkpoint(
        make_network(vocab_size=vocabulary),
        folder,
        processor=TINY,
        generation=GenerationConfig(max_new_tokens=10, max_denoising_steps=3),
    )
    return folder

"""Bars are for whoever watches; a log file gets none."""

import re

import pytest

from gesso.terminal.progress import CountBar, TrainingBar, Waiting
from gesso.training.trainer import StepLog
from tests.terminal.conftest import Terminal

LOG = StepLog(
    step=3,
    loss=1.5,
    denoise=0.5,
    causal=1.0,
    denoise_hits=0.5,
    grad_norm=1.0,
    lr=1e-3,
    examples_per_second=41.6,
)


def draw() -> None:
    with Waiting("loading tiny"):
        pass
    with TrainingBar(done=2, total=4000) as training:
        training.step(LOG)
    with CountBar() as counts:
        counts.step("names, diffusion", 1, 2)
        counts.step("names, diffusion", 2, 2)
        counts.step("forms, diffusion", 1, 2)


def test_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    draw()
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("sys.stderr", terminal)
    draw()
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", terminal.getvalue())
    assert "loading tiny" in text
    assert "step 3 of 4,000" in text
    assert "loss 1.500 (denoise 0.500, causal 1.000) · 42 examples/s" in text
    assert "names, diffusion" in text
    assert "2 of 2" in text
    assert "forms, diffusion" in text

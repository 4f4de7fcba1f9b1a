"""Tables: what they say, and that a pipe gets one row a line and nothing else."""

from typing import Any

import pytest

from gesso.terminal.tables import print_bench, print_evaluation
from tests.terminal.conftest import Terminal


def run(split: str, mode: str, exact: float) -> dict[str, Any]:
    return dict(
        split=split,
        mode=mode,
        n=50,
        exact=exact,
        verdicts=dict(exact=exact, valid=1.0),
        by=dict(order=dict(n=50, exact=exact)),
        steps_per_canvas=7.25,
        tokens_per_forward=4.5,
        tokens_per_second=1234.5,
        examples_per_second=21.0,
        hit_step_cap=0.02,
    )


REPORT = {"runs": [run("names", "diffusion", 0.98), run("names", "autoregressive", 0.5)]}
BENCH = {
    "bench": "generate",
    "contenders": [
        dict(
            name="gesso",
            dtype="float32",
            tokens_per_second_median=200.0,
            tokens_per_second_all=[190.0, 200.0, 210.0],
            ms_per_forward_median=12.34,
        ),
    ],
    "ratios": {"gesso / transformers": 1.5},
}


def test_brackets_and_colons_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation({"runs": [run("[draft] a:smile:b [/x]", "diffusion", 0.5)]})
    assert "[draft] a:smile:b [/x]  diffusion" in capsys.readouterr().out


def test_evaluation_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(REPORT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["split", "mode", "n", "exact", "valid"]
    assert lines[1].split() == [
        "names",
        "diffusion",
        "50",
        "98.0%",
        "100.0%",
        "7.2",
        "4.50",
        "1,234",
        "21.0",
        "2.0%",
    ]
    assert lines[4].split() == ["exact", "by", "kind", "order"]
    assert lines[6].split() == ["names", "autoregressive", "50.0%"]
    assert lines == [line.rstrip() for line in lines]


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    print_bench(BENCH)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["gesso", "float32", "200.0", "190.0", "to", "210.0", "12.34"]
    assert lines[2] == "gesso / transformers: 1.50"


def test_on_a_terminal_there_are_rules(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", terminal)
    print_evaluation(REPORT)
    assert "─" in terminal.getvalue()

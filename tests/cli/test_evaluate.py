"""`gesso eval`: the library's report, printed."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_json(run: Run, checkpoint: Path) -> None:
    words = ("--n", 2, "--split", "names", "--split", "forms", "--seed", 1, "--json")
    code, out, err = run("eval", "extract", "--model", checkpoint, *words)
    assert (code, err) == (0, "")
    runs = json.loads(out)["runs"]
    assert {(r["split"], r["mode"]) for r in runs} == {
        (split, mode) for split in ("names", "forms") for mode in ("diffusion", "autoregressive")
    }
    assert all(r["n"] == 2 and r["exact"] == 0.0 for r in runs)


def test_table_of_diffusion_alone(run: Run, checkpoint: Path) -> None:
    words = ("--n", 1, "--split", "names", "--no-autoregressive")
    code, out, err = run("eval", "extract", "--model", checkpoint, *words)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:4] == ["names", "diffusion", "1", "0.0%"]
    assert "autoregressive" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [(["juggle"], "juggle"), (["extract", "--split", "x"], "'x'"), (["extract", "--n", "0"], "n:")],
)
def test_mistakes(run: Run, checkpoint: Path, words: list[str], said: str) -> None:
    code, out, err = run("eval", *words, "--model", checkpoint)
    assert (code, out) == (2, "")
    assert said in err

"""`gesso eval`: the library's report, printed."""

import json
from pathlib import Path

import pytest

from gesso.evaluation import MODES
from tests.cli.conftest import Run


def test_json(run: Run, checkpoint: Path) -> None:
    words = ("--n", 2, "--split", "names", "--split", "forms", "--seed", 1, "--json")
    code, out, err = run("eval", "extract", "--model", checkpoint, *words)
    assert (code, err) == (0, "")
    runs = json.loads(out)["runs"]
    assert {(r["split"], r["mode"]) for r in runs} == {
        (split, mode) for split in ("names", "forms") for mode in MODES
    }
    assert all(r["n"] == 2 and r["exact"] == 0.0 for r in runs)


def test_rows_change_no_answer(run: Run) -> None:
    """With the embedded checkpoint, whose canvases end at different steps."""
    words = ("--n", 4, "--split", "names", "--mode", "diffusion", "--json")
    counted = []
    for rows in (1, 3):
        code, out, _ = run("eval", "extract", *words, "--rows", rows)
        assert code == 0
        (found,) = json.loads(out)["runs"]
        counted.append({key: found[key] for key in ("verdicts", "by", "steps_histogram")})
    assert counted[0] == counted[1]
    assert len(counted[0]["steps_histogram"]) > 1


def test_a_file_of_ones_own_examples(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "held.jsonl"
    line = json.dumps({"prompt": "two plus two", "completion": "four"})
    file.write_text(f"{line}\n{line}\n", encoding="utf-8")
    words = ("--model", checkpoint, "--mode", "diffusion", "--json")
    code, out, err = run("eval", file, *words)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["task"] == str(file)
    assert [(r["split"], r["n"], r["verdicts"]) for r in report["runs"]] == [
        ("held", 2, {"exact": 0.0})
    ]
    file.write_text(f"{line}\n{{\n", encoding="utf-8")
    code, out, err = run("eval", file, *words)
    assert (code, out) == (2, "")
    assert "1 bad lines; mend them: line 2: not JSON" in err
    long = json.dumps({"prompt": "a " * 9000, "completion": "b"})
    file.write_text(f"{line}\n\n{line}\n{long}\n", encoding="utf-8")
    code, out, err = run("eval", file, *words)
    assert (code, out) == (2, "")
    assert f"{file}: line 4: the prompt has" in err


def test_table_of_diffusion_alone(run: Run, checkpoint: Path) -> None:
    words = ("--n", 1, "--split", "names", "--mode", "diffusion")
    code, out, err = run("eval", "extract", "--model", checkpoint, *words)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:4] == ["names", "diffusion", "1", "0.0%"]
    assert "autoregressive" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["juggle"], "juggle"),
        (["extract", "--split", "x"], "'x'"),
        (["extract", "--n", "0"], "n:"),
        (["extract", "--rows", "0"], "rows:"),
    ],
)
def test_mistakes(run: Run, checkpoint: Path, words: list[str], said: str) -> None:
    code, out, err = run("eval", *words, "--model", checkpoint)
    assert (code, out) == (2, "")
    assert said in err

"""The frame of every command: help, versions, errors, exit codes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gesso
from gesso.cli import main
from tests.cli.conftest import Run

PROGRAM = [sys.executable, "-c", "import sys; from gesso.cli import main; sys.exit(main())"]


def test_alone_it_says_what_there_is(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    for command in ("generate", "chat", "info", "train", "eval", "bench"):
        assert f"\n    {command} " in out


@pytest.mark.parametrize("command", ["generate", "chat", "info", "train", "eval", "bench"])
def test_every_command_has_help(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert out.startswith(f"usage: gesso {command}")


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"gesso {gesso.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["paint"], "paint"),
        (["generate", "x", "--colour"], "--colour"),
        (["generate", "x", "--seed", "much"], "'much'"),
        (["generate", "x", "--mode", "magic"], "magic"),
        (["train", "recipe.py", "--out", "x", "--fresh", "--resume"], "--resume"),
        (["bench"], "generate"),
        (["eval"], "TASK"),
    ],
)
def test_a_line_that_does_not_parse(run: Run, words: list[str], said: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert "--help" in err


def test_a_failure_of_ours_is_one_line_and_debug_shows_where(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("the disk\nis on fire")

    monkeypatch.setattr("gesso.engine.answers.load", fail)
    code, _, err = run("generate", "x", "--model", checkpoint)
    assert code == 1
    assert err == "gesso: RuntimeError: the disk is on fire (--debug shows where)\n"
    words = ("generate", "x", "--model", checkpoint)
    for line in ((*words, "--debug"), ("--debug", *words)):
        code, _, err = run(*line)
        assert code == 1
        assert "Traceback" in err
        assert err.endswith("(--debug shows where)\n")


def test_ctrl_c(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gesso.engine.answers.load", interrupt)
    assert run("generate", "x", "--model", checkpoint) == (130, "", "")


def test_help_imports_nothing_heavy() -> None:
    check = (
        "import sys; from gesso.cli import main; main(['generate', '--help']); "
        "print({'torch', 'rich', 'numpy', 'tokenizers'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_an_error_cannot_steer_the_terminal(run: Run) -> None:
    assert run("info", "--model", "a\x1b[2J").err.startswith("gesso: a\ufffd[2J: no such folder")


def test_odd_streams(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed ones, and bytes and letters that an encoding lacks."""
    model = ("--model", str(checkpoint.rename(checkpoint.with_name("für"))))
    said = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    monkeypatch.setattr("sys.stdout", said)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert main(["info", *model]) == 0
    assert b"/f\\xfcr\n" in said.buffer.getvalue()
    assert main(["generate", *model]) == 2
    assert "byte 0xFF at character 1 is no text" in sys.stderr.getvalue()
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", None)
    assert main(["generate", "x", *model]) == 0


def test_json_is_json_in_any_encoding(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, written in (("ascii", b"f\\u00fcr"), ("utf-8", "für".encode())):
        said = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", said)
        folder = checkpoint.with_name("für")
        if not folder.exists():
            checkpoint.rename(folder)
        assert main(["info", "--model", str(folder), "--json"]) == 0
        assert written in said.buffer.getvalue()
        assert json.loads(said.buffer.getvalue().decode(encoding))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # argparse would hear of it, and be still
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("gesso: OSError: [Errno 28]")
    assert done.stderr.count("\n") == 1


def test_as_a_process_a_closed_pipe_is_no_error(checkpoint: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "generate", "x", "--model", str(checkpoint), "--threads", "1"],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")

"""Every command of the README, every example and the training tutorial run."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gesso
from recipes import released

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


TUTORIAL = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.strip().splitlines()]


def on_a_terminal(command):
    """What a terminal of 80 columns is sent."""
    ours, its = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=its, env=env)
    os.close(its)
    sent = b""
    try:
        while piece := os.read(ours, 4096):
            sent += piece
    except OSError:  # so Linux says that nobody writes there any more
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=300) == 0
    return sent.decode().replace("\r\n", "\n")


def run(command, *, folder, shell=False):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command,
        shell=shell,
        cwd=folder,
        env=os.environ | {"PATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def folder(tmp_path):
    """A working folder with the recipes: what a command writes stays out of the tree."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, folder):
    done = run(command, folder=folder, shell=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 6
    for verb in ("generate", "chat", "info", "train", "eval", "bench", "convert"):
        assert any(f"gesso {verb}" in command for command in COMMANDS), verb


def test_every_parameter_is_told():
    table = README.split("## A request's parameters")[1].split("\n## ")[0]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert sorted(told) == sorted(gesso.Parameters.__dataclass_fields__)


def test_the_released_model_is_the_recipes():
    assert f"gesso info {released.ID}\n" in README


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python(number, folder):
    done = run([sys.executable, "-c", blocks("python")[number]], folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example, folder):
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 60
    done = run([sys.executable, str(example)], folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "NOT the same" not in done.stdout


def test_the_examples_are_there():
    assert {path.stem for path in EXAMPLES} == {"generate", "watch", "batch", "engine"}


def test_the_demo():
    """A canvas that resolves where somebody is watching, and the parsed object."""
    assert "@$(BIN)/python examples/generate.py\n" in (ROOT / "Makefile").read_text()
    demo = [sys.executable, str(ROOT / "examples" / "generate.py")]
    piped = run(demo, folder=ROOT).stdout
    assert json.loads(piped)["kind"] == "order"
    shown = on_a_terminal(demo)
    assert "step 1 of at most" in shown
    assert "step 3 of at most" in shown
    assert shown.endswith(piped)


def test_the_training_tutorial(folder):
    """From a file to an adapter in use, block by block in one folder, as a newcomer would, but for
    the number of steps: two do not teach anything."""
    steps = re.findall(r"```(python|bash)\n(.*?)```", TUTORIAL, re.DOTALL)
    assert [language for language, _ in steps] == ["python", "bash", "bash"]
    for language, text in steps:
        text = text.replace("--out", "--steps 2 --out")
        command = [sys.executable, "-c", text] if language == "python" else text
        done = run(command, folder=folder, shell=language == "bash")
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert (folder / "runs" / "tickets" / "adapter" / "adapter_model.safetensors").is_file()

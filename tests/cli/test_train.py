"""`gesso train`: a recipe's run, its resumption, and what a recipe can do wrong."""

import importlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import gesso
from gesso.cli.train import load_recipe
from gesso.training.trainer import Trainer
from tests.cli.conftest import Run
from tests.conftest import TEXT
from tests.terminal.conftest import TINY

ROOT = Path(__file__).parents[2]
CONFIG = dict(
    model_type="diffusion_gemma",
    canvas_length=16,
    eos_token_id=[1],
    text_config=TEXT | dict(vocab_size=2560),
)
RECIPE = f"""
from pathlib import Path
from gesso.config import ModelConfig
from gesso.generation_config import GenerationConfig
from gesso.training.config import TrainConfig
from kitchen.sizes import STEPS

def recipe():
    return TrainConfig(
        steps=STEPS, batch_size=2, tasks={{"extract": 1.0}}, processor=Path({str(TINY)!r}),
        model=ModelConfig.parse({CONFIG!r}), dtype="float32", log_every=1,
        generation=GenerationConfig(max_new_tokens=8, max_denoising_steps=2),
    )
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "kitchen"
    folder.mkdir()
    (folder / "sizes.py").write_text("STEPS = 2\n")
    (folder / "small.py").write_text(RECIPE)
    return folder / "small.py"


def steps(folder: Path) -> list[int]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_a_run_ends_with_a_checkpoint_that_answers(run: Run, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said, err = run("train", recipe, "--out", out, "--threads", 1, "--fresh")
    assert (code, err) == (0, "")
    assert said == f"checkpoint: {out / 'checkpoint'}\n"
    assert steps(out) == [1, 2]
    assert len(gesso.load(out / "checkpoint").generate("3 boxes").token_ids) <= 8

    # The same folder again is the same run, continued.
    code, _, err = run("train", recipe, "--out", out, "--steps", 3, "--seed", 0, "--resume")
    assert (code, err) == (0, "resuming at step 2 of 3\n")
    assert steps(out) == [1, 2, 3]

    code, _, err = run("train", recipe, "--out", out, "--fresh")
    assert code == 2
    assert "overwrites nothing" in err
    assert steps(out) == [1, 2, 3]


def test_a_file_in_place_of_the_tasks(run: Run, recipe: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.jsonl", tmp_path / "out"
    file.write_text('{"prompt": "two plus two", "completion": "four"}\n{"prompt": 1}\n')
    code, said, err = run("train", recipe, "--out", out, "--data", file)
    assert (code, said) == (2, "")
    assert f"{file}: 1 bad lines; mend them, or leave them out with --skip-bad: line 2" in err
    assert not out.exists()
    code, _, err = run("train", recipe, "--out", out, "--data", file, "--skip-bad")
    assert (code, err) == (0, f"{file}: left out 1 bad lines or files\n")
    assert steps(out) == [1, 2]


@pytest.mark.parametrize(("number", "expected"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 129),
])  # fmt: skip
def test_a_signal_saves_between_two_steps(
    run: Run,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    expected: int,
) -> None:
    whole = Trainer._train_step
    finished: list[int] = []

    def interrupted(self: Trainer) -> Any:
        if self.step == 1:
            signal.raise_signal(number)
        log = whole(self)
        finished.append(log.step)
        return log

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    ignored = signal.getsignal(number) == signal.SIG_IGN  # as nohup leaves a hangup
    if ignored:
        signal.signal(number, signal.SIG_DFL)
    out, handler = tmp_path / "out", signal.getsignal(number)
    code, said, err = run("train", recipe, "--out", out, "--steps", 4)
    assert (code, said) == (expected, "")
    assert finished == [1, 2], "the step in work is finished first"
    assert err == f"stopped after step 2; to resume: gesso train {recipe} --out {out} --steps=4\n"
    assert signal.getsignal(number) == handler
    if ignored:
        signal.signal(number, signal.SIG_IGN)

    monkeypatch.undo()
    assert run("train", recipe, "--out", out, "--steps", 4).err == "resuming at step 2 of 4\n"


def test_a_second_ctrl_c_does_not_wait(
    run: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: Trainer) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "_train_step", twice)
    assert run("train", recipe, "--out", tmp_path / "out").code == 130
    assert not (tmp_path / "out" / "state.safetensors").exists()


def test_nothing_to_resume(run: Run, recipe: Path, tmp_path: Path) -> None:
    code, _, err = run("train", recipe, "--out", tmp_path / "out", "--resume")
    assert code == 2
    assert "no run to resume" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("x = 1", "no function recipe()"),
        ("def recipe():\n    return {}", "returns dict"),
        ("def recipe(:", "SyntaxError"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("def recipe():\n    raise ValueError('steps: got 0')", "steps: got 0"),
    ],
)
def test_recipes_with_a_fault(run: Run, tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "faulty.py"
    if text is not None:
        path.write_text(text)
    code, _, err = run("train", path, "--out", tmp_path / "out")
    assert code == 2
    assert said in err
    assert not (tmp_path / "out").exists()


def test_another_function_of_the_file(run: Run, recipe: Path, tmp_path: Path) -> None:
    with recipe.open("a") as file:
        file.write("\n\ndef brief():\n    from dataclasses import replace\n")
        file.write("    return replace(recipe(), steps=1)\n")
    assert run("train", f"{recipe}:brief", "--out", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out" / "log.jsonl").read_text())["step"] == 1
    code, _, err = run("train", f"{recipe}:longer", "--out", tmp_path / "other")
    assert code == 2
    assert f"{recipe}: no function longer(); define one" in err


@pytest.mark.parametrize(
    ("name", "folder"), [("", "small"), (":recipe", "small"), (":brief", "small-brief")]
)
def test_a_run_without_a_folder_is_kept_by_its_recipe(
    run: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    with recipe.open("a") as file:
        file.write("\n\nbrief = recipe\n")
    monkeypatch.chdir(tmp_path)
    code, said, _ = run("train", f"{recipe}{name}")
    assert (code, said) == (0, f"checkpoint: {Path('runs', folder, 'checkpoint')}\n")
    assert run("train", f"{recipe}{name}", "--steps", 3).err == "resuming at step 2 of 3\n"


def test_an_empty_name_is_no_folder(
    run: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a variable that was not set."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", recipe, "--out", "")
    assert (code, "--out: got ''; give a name" in err) == (2, True)
    code, _, err = run("train", recipe, "--data", "", "--dry-run")
    assert (code, "--data: got ''; give a name" in err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["kitchen"]


def test_what_a_run_left_is_not_overwritten(run: Run, recipe: Path, tmp_path: Path) -> None:
    """Without its state, too, which takes the most room and is the first to be deleted."""
    out = tmp_path / "out"
    assert run("train", recipe, "--out", out).code == 0
    (out / "state.safetensors").unlink()
    before = (out / "log.jsonl").read_bytes()
    code, _, err = run("train", recipe, "--out", out, "--fresh")
    assert code == 2
    assert "overwrites nothing" in err
    assert (out / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("left", ["checkpoint", "best-adapter"])
@pytest.mark.parametrize("words", [(), ("--fresh",)], ids=["", "fresh"])
def test_a_run_whose_state_is_gone_is_refused(
    run: Run, recipe: Path, tmp_path: Path, left: str, words: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / left).mkdir()
    code, _, err = run("train", recipe, "--out", out, *words)
    assert code == 2
    assert f"{out}: holds {left} of a run whose state.safetensors is gone" in err
    assert [path.name for path in out.iterdir()] == [left]


JUDGED = """
def judged():
    from dataclasses import replace
    from gesso.training.config import EvaluationConfig
    evaluation = EvaluationConfig(task={task!r}, every=1, n=2, patience=1)
    return replace(recipe(), steps=4, evaluation=evaluation)
"""


def test_the_recipe_s_evaluation_is_not_of_the_data(run: Run, recipe: Path, tmp_path: Path) -> None:
    """Unless it is on a file, which goes with --data."""
    file, plain = tmp_path / "mine.jsonl", recipe.read_text()
    file.write_text('{"prompt": "two plus two", "completion": "four"}\n')
    recipe.write_text(plain + JUDGED.format(task="brackets"))
    out = tmp_path / "out"
    code, said, err = run("train", f"{recipe}:judged", "--out", out, "--data", file)
    assert (code, "best judged" in said) == (0, False)
    assert err.startswith("--data: the recipe's evaluation on brackets is left out; ")
    assert steps(out) == [1, 2, 3, 4]
    assert not (out / "accuracy.jsonl").exists()
    recipe.write_text(plain + JUDGED.format(task=str(file)))
    out = tmp_path / "on-a-file"
    code, _, err = run("train", f"{recipe}:judged", "--out", out, "--data", file)
    # Nothing is learned in two steps, and the second judgement is no better than the first.
    assert (code, err) == (0, "ended at step 2 of 4: no better judgement in 1\n")
    assert (out / "accuracy.jsonl").exists()


def test_a_recipe_may_define_a_dataclass(run: Run, recipe: Path, tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    recipe.write_text(text + recipe.read_text() + "\n\n@dataclass\nclass A:\n    b: int\n")
    assert run("train", recipe, "--out", tmp_path / "out", "--steps", 1).code == 0


def recipes() -> list[str]:
    """FILE:NAME of every function in the project's recipes that says it gives a TrainConfig."""
    found = []
    for path in sorted((ROOT / "recipes").glob("*.py")):
        module = importlib.import_module(f"recipes.{path.stem}")
        found += [
            f"{path}:{name}"
            for name, value in vars(module).items()
            if getattr(value, "__annotations__", {}).get("return") == "TrainConfig"
        ]
    return found


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: Path(recipe).name)
def test_every_recipe_of_the_project_can_be_made(recipe: str) -> None:
    assert load_recipe(recipe).steps > 0


def test_stages_and_twins_are_among_them() -> None:
    assert {Path(recipe).name for recipe in recipes()} > {"tiny.py:recipe", "sudoku9.py:twin"}


def test_a_recipe_is_a_python_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.txt").write_text(RECIPE)
    code, _, err = run("train", tmp_path / "recipe.txt", "--out", tmp_path / "out")
    assert code == 2
    assert ".py" in err


def test_steps_below_one(run: Run, recipe: Path, tmp_path: Path) -> None:
    code, _, err = run("train", recipe, "--out", tmp_path / "out", "--steps", 0)
    assert code == 2
    assert "steps" in err


@pytest.mark.parametrize("leaves", ["raise SystemExit", "sys.exit('set DATA first')"])
def test_a_recipe_that_leaves_has_failed(run: Run, tmp_path: Path, leaves: str) -> None:
    file = tmp_path / "leaves.py"
    file.write_text(f"import sys\ndef recipe():\n    {leaves}\n")
    code, _, err = run("train", file, "--dry-run")
    assert (code, "the recipe fails: SystemExit" in err) == (2, True)


def test_a_folder_that_cannot_be_made(run: Run, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = run("train", recipe, "--steps", 1, "--out", tmp_path / "file" / "run")
    assert (code, "choose another folder" in err) == (2, True)

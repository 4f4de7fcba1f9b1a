"""Judging while training: the same examples each time, the best kept, an early end, resumption."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gesso
from gesso.checkpoint import read_config
from gesso.generation.model import DiffusionGemma
from gesso.generation_config import GenerationConfig
from gesso.processor import Processor
from gesso.tasks import get_task
from gesso.training import judge as module
from gesso.training.config import EvaluationConfig, OptimizerConfig, TrainConfig
from gesso.training.trainer import Trainer
from tests.cli.conftest import checkpoint as checkpoint
from tests.terminal.conftest import TINY

SCORES = [0.25, 0.5, 0.25, 0.5, 0.125]


@pytest.fixture
def config(checkpoint: Path) -> TrainConfig:
    return TrainConfig(
        steps=5, batch_size=2, tasks={"brackets": 1.0}, processor=TINY, base=checkpoint,
        dtype="float32", save_every=2, log_every=1,
        generation=GenerationConfig(max_new_tokens=5, max_denoising_steps=2),
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=1, ema_decay=0.0),
        evaluation=EvaluationConfig(task="brackets", every=1, n=8),
    )  # fmt: skip


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Verdicts by the script `SCORES`, from the judgement of a given number on; eight each."""
    queue: list[float] = []

    def begin(at: int) -> None:
        queue[:] = [1.0 if i < 8 * score else 0.0 for score in SCORES[at:] for i in range(8)]

    task = get_task("brackets")
    monkeypatch.setattr(type(task), "verdict", lambda *_: {"exact": queue.pop(0)})
    begin(0)
    return begin


def judgements(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "accuracy.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_best_is_kept(
    config: TrainConfig, scored: Callable[[int], None], tmp_path: Path
) -> None:
    """The second judgement is the best, until its equal, the fourth."""
    seen: list[dict[str, torch.Tensor]] = []
    folder = tmp_path / "run"
    trainer = Trainer(config, folder)
    trainer.run(on_step=lambda log: seen.append(trainer._averaged().state_dict()))
    lines = judgements(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["exact"] for line in lines] == SCORES
    assert all(1 <= line["steps_per_canvas"] <= 2 for line in lines)
    best = gesso.load(folder / "best-checkpoint").network.state_dict()
    assert all(torch.equal(best[n], t.bfloat16().float()) for n, t in seen[3].items())
    last = gesso.load(folder / "checkpoint").network.state_dict()
    assert all(torch.equal(last[n], t.bfloat16().float()) for n, t in seen[4].items())
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("patience", "steps"), [(0, 5), (1, 3), (2, 4), (3, 5)])
def test_it_ends_when_nothing_gets_better(
    config: TrainConfig,
    scored: Callable[[int], None],
    tmp_path: Path,
    patience: int,
    steps: int,
) -> None:
    assert config.evaluation is not None
    config = replace(config, evaluation=replace(config.evaluation, patience=patience))
    folder = tmp_path / "run"
    trainer = Trainer(config, folder)
    trainer.run()
    assert trainer.step == steps
    assert (folder / "checkpoint").is_dir()
    again = Trainer(config, folder)
    assert again.resume()
    again.run()
    assert again.step == steps


def test_a_resumed_run_judges_as_an_uninterrupted_one(
    config: TrainConfig, scored: Callable[[int], None], tmp_path: Path
) -> None:
    """Killed after the judgement of step 3, whose state is not written: it is judged again."""
    Trainer(config, tmp_path / "whole").run()
    scored(0)

    class Killed(BaseException):
        pass

    trainer = Trainer(config, tmp_path / "parts")

    def kill(log: object) -> None:
        if trainer.step == 3:
            raise Killed

    with pytest.raises(Killed):
        trainer.run(on_step=kill)
    assert [line["step"] for line in judgements(tmp_path / "parts")] == [1, 2, 3]
    scored(2)
    second = Trainer(config, tmp_path / "parts")
    assert second.resume()
    second.run()
    assert judgements(tmp_path / "parts") == judgements(tmp_path / "whole")
    for name in ("checkpoint", "best-checkpoint"):
        one, other = (weights(tmp_path / run / name) for run in ("whole", "parts"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_killed_before_its_first_state_is_judged_anew(
    config: TrainConfig, scored: Callable[[int], None], tmp_path: Path
) -> None:
    """Of what was judged before, even in half a line, nothing stays."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "accuracy.jsonl").write_text('{"step": 1, "exact": 1.0}\n{"step": 2, "ex')
    trainer = Trainer(config, folder)
    assert not trainer.resume()
    trainer.run()
    assert [line["exact"] for line in judgements(folder)] == SCORES


def test_a_run_killed_after_its_first_best_can_go_on(
    config: TrainConfig, scored: Callable[[int], None], tmp_path: Path
) -> None:
    """However long it is to the first state that was asked for."""

    class Killed(Exception):
        pass

    def kill(log: object) -> None:
        raise Killed

    config = replace(config, save_every=100)
    with pytest.raises(Killed):
        Trainer(config, tmp_path / "run").run(on_step=kill)
    scored(1)
    again = Trainer(config, tmp_path / "run")
    assert again.resume()
    assert again.step == 1
    again.run()
    assert [line["exact"] for line in judgements(tmp_path / "run")] == SCORES


def test_scores_of_other_examples_do_not_count(
    config: TrainConfig, scored: Callable[[int], None], tmp_path: Path
) -> None:
    """Patience and the best begin anew when what is judged has changed."""
    assert config.evaluation is not None
    folder = tmp_path / "run"
    evaluation = replace(config.evaluation, patience=1)
    Trainer(replace(config, evaluation=evaluation, steps=3), folder).run()
    (line, *_) = judgements(folder)
    assert {key: line[key] for key in ("task", "split", "n", "seed")} == dict(
        task="brackets", split="held", n=8, seed=1
    )
    scored(2)  # 0.25, 0.5, 0.125: below what was judged before
    again = Trainer(replace(config, evaluation=replace(evaluation, seed=2)), folder)
    assert again.resume()
    again.run()
    assert again.step == 5
    scored(3)
    same = Trainer(replace(config, evaluation=evaluation, steps=9), folder)
    assert same.resume()
    same.run()
    assert same.step == 5  # ended by the judgements of its first three steps


def test_a_run_whose_judge_fails_is_saved(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise MemoryError("no room for a row")

    monkeypatch.setattr(module, "Engine", failing)
    folder = tmp_path / "run"
    with pytest.raises(MemoryError, match="no room"):
        Trainer(config, folder).run()
    again = Trainer(config, folder)
    assert again.resume()
    assert again.step == 1
    assert (folder / "checkpoint").is_dir()


def test_an_example_without_room_for_a_canvas(config: TrainConfig, tmp_path: Path) -> None:
    """The prompt alone fits the context; told before the weights are read, by number."""
    file = tmp_path / "held.jsonl"
    file.write_text(json.dumps({"prompt": "a " * 3000, "completion": "b"}) + "\n")
    assert config.base is not None
    shape = read_config(Path(config.base))
    length = len(Processor.load(TINY).encode_prompt("a " * 3000))
    text = replace(shape.text, max_position_embeddings=length + shape.canvas_length - 1)
    config = replace(
        config, model=replace(shape, text=text), base=None,
        evaluation=EvaluationConfig(task=str(file), every=1),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"evaluation: example 1 of .*with one canvas of 5 that"):
        Trainer(config, tmp_path / "run")


def test_judging_changes_nothing_of_the_training(config: TrainConfig, tmp_path: Path) -> None:
    logs = []
    for name, evaluation in (("with", config.evaluation), ("without", None)):
        Trainer(replace(config, evaluation=evaluation), tmp_path / name).run()
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        logs.append([json.loads(line)["loss"] for line in lines])
    assert logs[0] == logs[1]
    assert not (tmp_path / "without" / "accuracy.jsonl").exists()


def test_the_verdicts_are_those_of_the_answers(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every held-out example, drawn by the seed, is answered once and judged by its own text."""
    given: list[str] = []
    make = DiffusionGemma.request

    def spy(self: DiffusionGemma, prompt: str, *args: Any, **keys: Any) -> Any:
        given.append(prompt)
        return make(self, prompt, *args, **keys)

    monkeypatch.setattr(DiffusionGemma, "request", spy)
    monkeypatch.setattr(module, "_ROWS", 3)
    examples: Iterator[Any] = get_task("brackets").examples(split="held", seed=1)
    Trainer(replace(config, steps=1), tmp_path / "run").run()
    assert given == [next(examples).prompt for _ in range(8)]
    assert judgements(tmp_path / "run")[0]["exact"] == 0.0  # random weights


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (dict(every=0), "every: got 0; expected at least 1"),
        (dict(n=0), "n: got 0"),
        (dict(patience=-1), "patience: got -1; expected at least 0"),
    ],
)
def test_bad_config(keys: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**dict(task="brackets", every=1) | keys)


def test_an_unknown_split(config: TrainConfig, tmp_path: Path) -> None:
    evaluation = EvaluationConfig(task="brackets", every=1, split="test")
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, held"):
        Trainer(replace(config, evaluation=evaluation), tmp_path / "run")

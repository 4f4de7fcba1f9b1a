"""A tiny run: resumed is uninterrupted, bit for bit; and no way to end it leaves a ruin."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gesso
from gesso.checkpoint import read_generation_config
from gesso.config import ModelConfig
from gesso.files import replacing, replacing_in
from gesso.generation_config import GenerationConfig
from gesso.training import data as data_module
from gesso.training import trainer as module
from gesso.training.config import (
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)
from gesso.training.objective import training_loss
from gesso.training.trainer import Trainer

TINY = Path(gesso.__file__).parent / "assets" / "tiny"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 batches: six steps reach into the second."""
    monkeypatch.setattr(data_module, "CHUNK_BATCHES", 4)


@pytest.fixture
def config(raw_config: Callable[..., dict[str, Any]]) -> TrainConfig:
    raw = raw_config(
        vision=False, vocab_size=2560, hidden_size=32, num_hidden_layers=2, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"], max_position_embeddings=2048,
    )  # fmt: skip
    return TrainConfig(
        steps=6, batch_size=2, tasks={"extract": 1.0}, processor=TINY,
        model=ModelConfig.parse(raw | {"canvas_length": 16}),
        generation=GenerationConfig(max_new_tokens=16, eos_token_ids=(1, 16)),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2, ema_decay=0.9),
        save_every=3, log_every=1,
    )  # fmt: skip


class Killed(BaseException):
    """Not an Exception: nobody may swallow it."""


def kill_at(step: int) -> Callable[..., None]:
    def on_step(log) -> None:
        if log.step == step:
            raise Killed

    return on_step


def log_of(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["examples_per_second"]
    return lines


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_run(one: Path, other: Path) -> None:
    assert log_of(one) == log_of(other)
    state, expected = (load_file(f / "state.safetensors") for f in (one, other))
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    files = [{p.name: p.read_bytes() for p in (f / "checkpoint").iterdir()} for f in (one, other)]
    assert files[0] == files[1]


@pytest.fixture
def whole(config: TrainConfig, tmp_path: Path) -> Path:
    Trainer(config, tmp_path / "whole").run()
    return tmp_path / "whole"


def resumed(config: TrainConfig, folder: Path) -> bool:
    trainer = Trainer(config, folder)
    found = trainer.resume()
    trainer.run()
    return found


def test_resumed_is_uninterrupted(config: TrainConfig, whole: Path, tmp_path: Path) -> None:
    """Killed at step 5, whose state is not written: 4 and 5 run again."""
    assert [line["step"] for line in log_of(whole)] == [1, 2, 3, 4, 5, 6]
    assert len({line["loss"] for line in log_of(whole)}) == 6
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        Trainer(config, folder).run(on_step=kill_at(5))
    assert [line["step"] for line in log_of(folder)] == [1, 2, 3, 4, 5]
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"step": 6, "lo')  # killed within a line
    assert resumed(config, folder)
    assert_same_run(folder, whole)
    assert_loads(config, folder)


@pytest.mark.parametrize(("keys", "message"), [
    (dict(seed=5), "seed: got 5, but .* was begun with 0; resume with that"),
    (dict(tasks={"brackets": 1.0}), "tasks: got {'brackets': 1.0}, but .* {'extract': 1.0}"),
    (dict(batch_size=4), "batch_size: got 4"),
    (dict(objective=ObjectiveConfig(draws=0)), "objective: got {.*'draws': 0"),
    (dict(optimizer=OptimizerConfig()), "optimizer: got"),
    (dict(data=[([{"prompt": "a", "completion": "b"}], 1.0)]), "data: not what .* was begun with"),
])  # fmt: skip
def test_another_run_is_not_gone_on_with(
    config: TrainConfig, whole: Path, keys: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(replace(config, **keys), whole).resume()
    # How it is cut up, and how long it is to be, is another matter.
    assert Trainer(replace(config, accumulate=2, steps=9, save_every=1), whole).resume()


def assert_loads(config: TrainConfig, folder: Path) -> None:
    dg = gesso.load(folder / "checkpoint")
    average = load_file(folder / "state.safetensors")["average.embed.weight"]
    assert torch.equal(dg.network.embed.weight, average.bfloat16().float())
    assert dg.network.config.text == config.model.text
    assert dg.generate("hello", max_new_tokens=3, max_denoising_steps=1).stats.new_tokens <= 3


def test_killed_before_the_first_state(config: TrainConfig, whole: Path, tmp_path: Path) -> None:
    """There is a log and nothing else: the run starts anew, and so does the log."""
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        Trainer(config, folder).run(on_step=kill_at(3))
    assert not resumed(config, folder)
    assert_same_run(folder, whole)


@pytest.mark.parametrize("save", [1, 2], ids=["first save", "last save"])
def test_killed_between_state_and_checkpoint(
    config: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: int
) -> None:
    """At the last step too: no step is left to run, and the checkpoint is written all the same."""
    folder, saves, write = tmp_path / "killed", [], module.save_checkpoint

    def failing(*given: Any, **keys: Any) -> None:
        saves.append(1)
        if len(saves) == save:
            raise Killed
        write(*given, **keys)

    monkeypatch.setattr(module, "save_checkpoint", failing)
    with pytest.raises(Killed):
        Trainer(config, folder).run()
    monkeypatch.setattr(module, "save_checkpoint", write)
    if save == 2:
        gesso.load(folder / "checkpoint")  # the one before, whole
    assert resumed(config, folder)
    assert_same_run(folder, whole)


def test_a_state_is_replaced_whole_or_not_at_all(
    config: TrainConfig, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of writing: the earlier state is still there."""
    before = (whole / "state.safetensors").read_bytes()

    def failing(tensors: dict, path: Path, **keys: Any) -> None:
        Path(path).write_bytes(before[: len(before) // 2])
        raise OSError("no space left")

    trainer = Trainer(config, whole)
    assert trainer.resume()
    monkeypatch.setattr(module, "save_file", failing)
    with pytest.raises(OSError, match="no space"):
        trainer.save()
    assert (whole / "state.safetensors").read_bytes() == before
    assert_loads(config, whole)


def test_a_finished_run_stays_as_it_is(config: TrainConfig, whole: Path) -> None:
    before = contents(whole)
    assert resumed(config, whole)
    assert contents(whole) == before


def test_what_a_run_left_is_not_overwritten(
    config: TrainConfig, whole: Path, tmp_path: Path
) -> None:
    """With its state, by a run that was not resumed; without, by none."""
    trainer = Trainer(config, whole)
    before = contents(whole)
    for write in (trainer.run, trainer.save):
        with pytest.raises(ValueError, match=r"whole: holds a run, .*; resume\(\) continues"):
            write()
        assert contents(whole) == before
    (whole / "state.safetensors").unlink()
    for refused in (trainer.run, lambda: Trainer(config, whole)):
        with pytest.raises(ValueError, match="whole: holds checkpoint of a run whose state"):
            refused()
    assert (whole / "log.jsonl") in contents(whole)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: is a file; give the name of a folder"):
        Trainer(config, tmp_path / "file")


def test_a_trainer_goes_on_in_its_own_folder(
    config: TrainConfig, whole: Path, tmp_path: Path
) -> None:
    trainer = Trainer(config, tmp_path / "killed")
    with pytest.raises(Killed):
        trainer.run(on_step=kill_at(4))
    trainer.run()
    assert_same_run(tmp_path / "killed", whole)


@pytest.mark.parametrize("text", [
    {"hidden_size": 48},
    {"num_hidden_layers": 3, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
], ids=["wider", "more layers", "fewer layers"])  # fmt: skip
def test_another_recipe_is_refused(
    config: TrainConfig, whole: Path, raw_config: Callable[..., dict[str, Any]], text: dict
) -> None:
    raw = config.model.to_json()
    raw["text_config"] |= text
    other = Trainer(replace(config, model=ModelConfig.parse(raw)), whole)
    with pytest.raises(ValueError, match=r"model: got {'text_config': .* was begun with .*folder"):
        other.resume()
    assert other.step == 0
    # Of an older run whose state does not say its shape, the weights do.
    forget(whole, "model")
    with pytest.raises(ValueError, match=r"does not fit this recipe at .*another folder"):
        other.resume()
    assert other.step == 0


def forget(folder: Path, *names: str) -> None:
    """As a version that did not note these would have saved the state."""
    path = folder / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        noted = json.loads(file.metadata()["recipe"])
    kept = {name: value for name, value in noted.items() if name not in names}
    assert len(kept) == len(noted) - len(names)
    save_file(load_file(path), path, metadata={"recipe": json.dumps(kept)})


def test_a_shape_without_weights_of_its_own_is_another_run_s(
    config: TrainConfig, whole: Path
) -> None:
    """A window, canvases: the state's tensors would fit."""
    other = replace(config, model=replace(config.model, canvas_length=8))
    message = r"model: got {'canvas_length': 8}, but .* was begun with {'canvas_length': 16}"
    with pytest.raises(ValueError, match=message):
        Trainer(other, whole).resume()
    forget(whole, "model", "quantize", "base weights")
    assert Trainer(config, whole).resume()


def test_what_a_killed_save_left_is_removed(config: TrainConfig, tmp_path: Path) -> None:
    Trainer(replace(config, steps=1), tmp_path).run()
    (tmp_path / "best-checkpoint").mkdir()
    kept = replacing_in(tmp_path / "best-checkpoint", entries=())
    best = kept.__enter__()
    left = [replacing(tmp_path / "state.safetensors"), replacing_in(tmp_path / "x", entries=())]
    left.append(replacing_in(tmp_path / "checkpoint", entries=()))
    paths = [manager.__enter__() for manager in left]
    paths[0].write_text("half")
    assert all(path.exists() for path in paths)
    assert resumed(config, tmp_path)
    assert not any(path.exists() for path in paths)
    assert best.exists()  # it may be all that is whole of them
    assert_loads(config, tmp_path)


# Fixed ones: how fast two sentences are learned by heart hangs on the sentences.
TWO = [
    {
        "prompt": "Extract: Two mugs for Rosa Diaz on Monday.",
        "completion": '{"kind":"order","customer":"Rosa Diaz",'
        '"items":[{"item":"mugs","quantity":2}],"deliver_to":null,"date":"Monday"}',
    },
    {
        "prompt": "Extract: Call Tom Baker of Initech on 555-0188.",
        "completion": '{"kind":"contact","name":"Tom Baker","company":"Initech",'
        '"phone":"555-0188","email":null}',
    },
]


def test_the_loss_goes_down(config: TrainConfig, tmp_path: Path) -> None:
    """On two examples again and again, to less than half. At the start the causal pass knows
    nothing, ln(vocabulary) is 7.8; the denoiser already leans towards the token that it sees."""
    config = replace(
        config, steps=40, dtype="float32", save_every=1000, tasks={}, data=[(TWO, 1.0)],
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=3, ema_decay=0.0),
    )  # fmt: skip
    trainer, losses = Trainer(config, tmp_path), []
    trainer.run(on_step=lambda log: losses.append((log.denoise, log.causal)))
    first, last = (torch.tensor(part).mean(0) for part in (losses[:2], losses[-5:]))
    assert first[1] > 7
    assert first[0] > 4
    assert (last < first / 2).all()


def test_a_base_checkpoint_is_where_training_starts(
    config: TrainConfig, whole: Path, tmp_path: Path
) -> None:
    based = replace(config, model=None, base=whole / "checkpoint", steps=1, dtype="float32")
    network = Trainer(based, tmp_path / "based").network
    loaded = gesso.load(whole / "checkpoint").network.state_dict()
    assert all(torch.equal(loaded[key], t) for key, t in network.state_dict().items())


def test_generation_defaults_are_the_base_s(
    config: TrainConfig, whole: Path, tmp_path: Path
) -> None:
    """Where the recipe has none; and without a base the published ones, with the model's ends."""
    silent = replace(config, generation=None, steps=1)
    Trainer(silent, tmp_path / "fresh").run()
    published = GenerationConfig(eos_token_ids=config.model.eos_token_ids)
    assert read_generation_config(tmp_path / "fresh" / "checkpoint") == published
    based = replace(silent, model=None, base=whole / "checkpoint")
    Trainer(based, tmp_path / "based").run()
    assert read_generation_config(tmp_path / "based" / "checkpoint") == config.generation


@pytest.mark.parametrize(("keys", "message"), [
    (dict(evaluation=EvaluationConfig(task="sudoku!", every=1)), "unknown task"),
    (dict(data={"nowhere.jsonl": 1.0}), "nowhere.jsonl"),
    (dict(tensorboard=True), "pip install gesso\\[tensorboard\\]"),
])  # fmt: skip
def test_mistakes_are_told_before_the_weights_are_read(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: dict,
    message: str,
) -> None:
    monkeypatch.setattr(module, "start", lambda config: pytest.fail("the weights were read"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=message):
        Trainer(replace(config, **keys), tmp_path)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_candidates_that_the_causal_pass_knows_least(
    config: TrainConfig, tmp_path: Path, parts: int
) -> None:
    """Two of six, in their order, in whatever parts they are looked at."""
    config = replace(config, candidates=3, accumulate=parts, dtype="float32")
    trainer = Trainer(config, tmp_path)
    batch = trainer._data.batch(0)
    assert len(batch.ids) == 6
    causal = ObjectiveConfig(draws=0, causal_prompt=False)
    rows = [batch.rows(slice(i, i + 1)) for i in range(6)]
    losses = torch.stack([training_loss(trainer.network, row, causal, []).causal for row in rows])
    hardest = (losses * batch.answer_length).argsort()[-2:].sort().values
    assert torch.equal(trainer._hardest(batch).ids, batch.ids[hardest])


def test_a_loss_that_is_nan_ends_the_run(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path)
    with torch.no_grad():
        trainer.network.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite at step 0; its batch is in"):
        trainer.run()
    assert not (tmp_path / "state.safetensors").exists()
    batch = load_file(tmp_path / "bad-batch-0.safetensors")
    assert batch["ids"].shape[0] == config.batch_size


def test_a_batch_in_parts_is_the_same_batch(config: TrainConfig, tmp_path: Path) -> None:
    runs = []
    for parts in (1, 3, 5):
        folder = tmp_path / str(parts)
        Trainer(
            replace(config, batch_size=5, steps=3, dtype="float32", accumulate=parts), folder
        ).run()
        runs.append(log_of(folder))
    for line, *others in zip(*runs, strict=True):
        for other in others:
            # Rounding of float32 sums in another order, through three updates.
            assert other == pytest.approx(line, rel=1e-4)


def test_tensorboard_shows_the_log(config: TrainConfig, tmp_path: Path) -> None:
    """Also of a run that was killed and resumed: no step twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(config, tensorboard=True)
    with pytest.raises(Killed):
        Trainer(config, tmp_path).run(on_step=kill_at(5))
    assert resumed(config, tmp_path)
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, pytest.approx(event.value)) for event in seen.Scalars("loss")]
    assert [(line["step"], line["loss"]) for line in log_of(tmp_path)] == losses


@pytest.mark.parametrize(("keys", "message"), [
    (dict(model=None), "a recipe gives model .* or base"),
    (dict(tasks={}), "tasks: got {}"),
    (dict(tasks={"extract": 0.0}), "share above 0"),
    (dict(tasks={"sudoku!": 1.0}), "unknown task 'sudoku!'; known: "),
    (dict(steps=0), "steps: got 0"),
    (dict(batch_size=0), "batch_size: got 0"),
    (dict(candidates=0), "candidates: got 0"),
    (dict(accumulate=0), "accumulate: got 0"),
    (dict(accumulate=3), "accumulate: got 3 parts of a batch of 2"),
    (dict(dtype="float8"), "dtype: got 'float8'; expected auto, float32 or bfloat16"),
])  # fmt: skip
def test_bad_recipes(config: TrainConfig, tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(replace(config, **keys), tmp_path)

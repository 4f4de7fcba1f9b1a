"""What a plan says, against steps that really ran."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gesso
from gesso.cli import main
from gesso.config import ModelConfig
from gesso.model.init import new_network
from gesso.model.lora import LoraConfig
from gesso.processor import Processor
from gesso.training import plan as module
from gesso.training.config import ObjectiveConfig, OptimizerConfig, TrainConfig
from gesso.training.data import collate
from gesso.training.mixture import mix
from gesso.training.objective import draw_noise, training_loss
from gesso.training.plan import Plan, Rows, plan, report, rows_of
from gesso.training.sources import Row
from gesso.training.weights import MasterWeights

TINY = Path(gesso.__file__).parent / "assets" / "tiny"
ROWS = Rows(count=4, prompt=24, canvases=1, widest=40)


@pytest.fixture
def config(raw_config: Callable[..., dict[str, Any]]) -> TrainConfig:
    raw = raw_config(
        vision=False, vocab_size=512, hidden_size=64, sliding_window=16, num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    return TrainConfig(
        steps=10, batch_size=4, tasks={"brackets": 1.0}, processor=TINY,
        model=ModelConfig.parse(raw | {"canvas_length": 16}),
        objective=ObjectiveConfig(self_conditioning=0.0), dtype="bfloat16",
    )  # fmt: skip


def real_step(config: TrainConfig) -> tuple[int, int]:
    """(operations, bytes kept) of a step on rows that fill their canvas."""
    network = new_network(config.model, seed=0).bfloat16()
    network.checkpoint_activations = config.checkpoint_activations
    length = config.model.canvas_length
    rows = [Row((5,) * ROWS.prompt, (6,) * length)] * ROWS.count
    noise = draw_noise(4, length=length, vocab_size=512, generator=torch.manual_seed(0))
    saved = module._Saved(network)
    with module._flops() as counter:
        with saved:
            batch = collate(rows, canvas_length=length, fill_id=1)
            loss = training_loss(network, batch, config.objective, [noise]).total
        loss.backward()
    return counter.get_total_flops(), saved.bytes


@pytest.mark.parametrize("again", [False, True])
def test_arithmetic_and_activations_are_those_of_a_step(config: TrainConfig, again: bool) -> None:
    config = replace(config, checkpoint_activations=again)
    found = plan(config, ROWS)
    flops, kept = real_step(config)
    # A row's last token has no successor to score; and attention, another operator on a CPU, is
    # taken for the one that keeps its weights.
    assert found.flops == pytest.approx(flops, rel=0.1)
    assert kept <= found.memory["activations"] <= 1.4 * kept


def test_unscored_passes_cost_and_scored_ones_too(config: TrainConfig) -> None:
    def flops(**options: Any) -> int:
        return plan(replace(config, objective=ObjectiveConfig(**options)), ROWS).flops

    alone, once = flops(self_conditioning=0.0), flops(self_conditioning=1.0)
    often = flops(self_conditioning=1.0, unroll=1.0, unroll_steps=5)
    assert often - alone == pytest.approx(3 * (once - alone), rel=1e-6)
    assert flops(self_conditioning=1.0, draws=0) < alone < once
    assert flops(self_conditioning=1.0, draws=2) > 1.2 * once
    once = plan(config, ROWS).flops
    two, four = (plan(replace(config, candidates=n), ROWS).flops for n in (2, 4))
    assert once < two < four < 3 * once
    assert four - once == pytest.approx(2 * (two - once), rel=1e-6)


def test_memory_by_what_holds_it(config: TrainConfig) -> None:
    count = plan(config, ROWS).parameters
    one, eight = plan(config, ROWS), plan(config, ROWS, processes=4)
    assert one.trained == count
    assert one.memory["weights"] == pytest.approx(2 * count, rel=1e-3)
    assert one.memory["gradients"] == 6 * count
    assert one.memory["masters, average, moments"] == 16 * count
    assert one.memory["weights fetched"] == 0 < eight.memory["weights fetched"]
    assert eight.memory["gradients"] == one.memory["gradients"] // 4
    assert eight.memory["activations"] < one.memory["activations"] / 2
    assert eight.flops == pytest.approx(one.flops, rel=1e-6)
    muon = replace(config, optimizer=OptimizerConfig(method="muon"))
    assert config.model is not None
    weights = MasterWeights(new_network(config.model, seed=0), muon.optimizer, total_steps=1)
    for weight in weights._masters:
        weight.grad = torch.zeros_like(weight)
    weights.step(0)
    held = sum(4 * t.numel() for name, t in weights.state().items() if not name.startswith("step."))
    assert 12 * count < held < 16 * count
    assert plan(muon, ROWS).memory["masters, average, moments"] == held


def test_memory_is_the_widest_batch_s(config: TrainConfig, tmp_path: Path) -> None:
    """One example in twenty is long: its batch decides what fits, and the mean what it takes."""
    file = tmp_path / "mostly-short.jsonl"
    lines = [{"prompt": "w " * (200 if n % 20 == 0 else 2), "completion": "ok"} for n in range(200)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = replace(
        config, tasks={}, data={file: 1.0},
        model=replace(config.model, text=replace(config.model.text, vocab_size=2560)),
    )  # fmt: skip
    processor = Processor.load(TINY)
    rows = rows_of(config, processor)
    data = mix(config, processor, config.model).batches
    assert rows.widest == max(data.batch(step).ids.shape[1] for step in range(32))
    assert rows.widest > 2 * (rows.prompt + 16)
    even = plan(config, replace(rows, widest=rows.prompt + 16))
    found = plan(config, rows)
    assert found.memory["activations"] > 2 * even.memory["activations"]
    assert found.flops == even.flops


def test_an_adapter_keeps_little(config: TrainConfig) -> None:
    """Of the frozen head no gradient is made, which is as large as the vocabulary."""
    adapted = replace(config, base=TINY, lora=LoraConfig(rank=8), checkpoint_activations=True)
    found: Plan = plan(adapted, ROWS)
    assert found.trained < found.parameters / 2
    assert found.memory["gradients"] == 6 * found.trained
    full = plan(replace(config, checkpoint_activations=True), ROWS)
    head = config.model.text.vocab_size * config.model.text.hidden_size * 2
    assert full.memory["activations"] - found.memory["activations"] == pytest.approx(
        2 * head, rel=0.1
    )


def test_rows_are_those_of_the_data(config: TrainConfig) -> None:
    rows = rows_of(config, Processor.load(TINY))
    assert rows.count == 4
    assert rows.canvases == 1
    assert 10 < rows.prompt < 60


RECIPE = """
from dataclasses import replace
from gesso.config import ModelConfig
from gesso.training.config import TrainConfig
def recipe():
    return TrainConfig(steps=10, batch_size=8, tasks={{"brackets": 1.0}}, processor={processor!r},
                       model=ModelConfig.parse({raw!r}), base={base!r}, device="cpu")
"""


@pytest.mark.parametrize("known", [True, False])
def test_dry_run(
    raw_config: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, known: bool,
) -> None:  # fmt: skip
    """Nothing is written, and a checkpoint that cannot be fetched is not needed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    raw = raw_config(vision=False, vocab_size=2560) | {"canvas_length": 16}
    source = str(TINY) if known else "nobody/nothing"
    text = RECIPE.format(processor=source, raw=raw, base=None if known else source)
    (tmp_path / "recipe.py").write_text(text)
    command = ["train", str(tmp_path / "recipe.py"), "--dry-run"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"]["prompt"] != 256 if known else found["rows"]["prompt"] == 256
    assert (found["rows_assumed"] is None) == known
    assert found["memory"].keys() == {"1", "8"}
    assert found["memory"]["8"]["in all"] < found["memory"]["1"]["in all"]
    assert found["least_seconds_per_step"] > 0
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"{found['parameters']:,}" in shown
    assert f"widest batch, {found['rows']['widest']:,} tokens a row" in shown
    assert ("the prompt's length is assumed" in shown) != known
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.py"]


def test_bad_data_is_no_missing_tokenizer(config: TrainConfig, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl"):
        report(replace(config, tasks={}, data={bad: 1.0}))


def test_a_run_has_no_plan_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "recipe.py", "--json"]) == 2
    assert "--json: goes with --dry-run" in capsys.readouterr().err

"""A run that trains an adapter: the base stays, the adapter learns, resumes and is used."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import gesso
from gesso.checkpoint import convert_checkpoint, load_network, merge_adapter
from gesso.generation_config import GenerationConfig
from gesso.model.lora import LoraConfig
from gesso.quant import QuantExperts
from gesso.training.config import EvaluationConfig, OptimizerConfig, TrainConfig
from gesso.training.trainer import Trainer
from tests.cli.conftest import Run
from tests.cli.conftest import checkpoint as checkpoint
from tests.cli.conftest import run as run
from tests.terminal.conftest import TINY

RECIPE = """
from pathlib import Path
from gesso.model.lora import LoraConfig
from gesso.training.config import TrainConfig

def recipe():
    return TrainConfig(
        steps=2, batch_size=2, tasks={{"extract": 1.0}}, processor=Path({tiny!r}),
        base=Path({base!r}), lora=LoraConfig(rank=2), dtype="float32",
    )
"""


@pytest.fixture
def config(checkpoint: Path) -> TrainConfig:
    return TrainConfig(
        steps=4, batch_size=2, tasks={"extract": 1.0}, processor=TINY, base=checkpoint,
        lora=LoraConfig(rank=2), dtype="float32", save_every=2, log_every=1,
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=1, ema_decay=0.0),
    )  # fmt: skip


def test_the_base_stays_and_the_adapter_is_what_the_network_computes(
    config: TrainConfig, checkpoint: Path, tmp_path: Path
) -> None:
    before = (checkpoint / "model.safetensors").read_bytes()
    trainer = Trainer(config, tmp_path / "run")
    trainer.run()
    assert (checkpoint / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "adapter", "log.jsonl", "progress.png", "state.safetensors"
    ]  # fmt: skip
    state = load_file(tmp_path / "run" / "state.safetensors")
    assert all(name.endswith(("_a", "_b")) for name in state if name.startswith("master."))
    ids = torch.randint(2560, (1, 12), generator=torch.Generator().manual_seed(0))
    outputs = []
    merged = load_network(checkpoint, dtype=torch.float32)
    plain = load_network(checkpoint, dtype=torch.float32)
    merge_adapter(merged, tmp_path / "run" / "adapter")
    for network in (trainer.network, merged, plain):
        with torch.no_grad():
            outputs.append(network.encode(ids, cache=network.new_cache(batch_size=1)))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-4)
    assert float((outputs[1] - outputs[2]).abs().max()) > 1e-2


def test_on_a_base_in_few_bits(config: TrainConfig, tmp_path: Path) -> None:
    """The adapter is shipped as ever, and its judge sees what was trained."""
    judged = EvaluationConfig(task="brackets", every=2, n=2)
    short = GenerationConfig(max_new_tokens=5, max_denoising_steps=2)
    config = replace(config, quantize="nvfp4", evaluation=judged, steps=2, generation=short)
    trainer = Trainer(config, tmp_path / "run")
    trainer.run()
    assert any(isinstance(module, QuantExperts) for module in trainer.network.modules())
    shipped = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in shipped.values())
    assert (tmp_path / "run" / "accuracy.jsonl").read_text().count("\n") == 1
    merge_adapter(load_network(config.base, dtype=torch.float32), tmp_path / "run" / "adapter")
    with pytest.raises(ValueError, match=r"quantize: got 'nvfp4'; .* and lora with it"):
        replace(config, lora=None)


def test_on_a_base_that_is_stored_in_few_bits(config: TrainConfig, tmp_path: Path) -> None:
    """Judged while it trains, with the base's own generation defaults."""
    convert_checkpoint(config.base, tmp_path / "few", quantize="fp8")
    judged = EvaluationConfig(task="brackets", every=2, n=2)
    config = replace(config, base=tmp_path / "few", evaluation=judged, steps=2)
    trainer = Trainer(config, tmp_path / "run")
    trainer.run()
    assert any(isinstance(module, QuantExperts) for module in trainer.network.modules())
    assert (tmp_path / "run" / "accuracy.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "run" / "best-adapter").is_dir()


def test_an_adapter_is_judged_by_the_network_s_own_passes(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels that a GPU would have taken read plain and quantized weights alone."""
    monkeypatch.setattr(
        "gesso.engine.engine.make_stepper", lambda *_: pytest.fail("a GPU would take kernels")
    )
    short = GenerationConfig(max_new_tokens=5, max_denoising_steps=2)
    judged = EvaluationConfig(task="brackets", every=1, n=2)
    Trainer(replace(config, steps=1, evaluation=judged, generation=short), tmp_path / "run").run()
    assert (tmp_path / "run" / "accuracy.jsonl").read_text().count("\n") == 1


def test_another_base_or_form_is_not_gone_on_with(
    config: TrainConfig, checkpoint: Path, tmp_path: Path
) -> None:
    """Of a base the layers count too, and the bits that it is held in."""
    folder, steps = tmp_path / "run", replace(config, steps=1)
    Trainer(steps, folder).run()
    with pytest.raises(ValueError, match=r"quantize: got fp8, but .* was begun with None"):
        Trainer(replace(steps, quantize="fp8"), folder).resume()
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("layers.0.self_attn.q_proj.weight"))
    tensors[name] = tensors[name] + 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"base weights: not what .* was begun with"):
        Trainer(steps, folder).resume()


def test_an_adapter_s_run_resumes(config: TrainConfig, tmp_path: Path) -> None:
    Trainer(config, tmp_path / "whole").run()
    first = Trainer(config, tmp_path / "parts")

    class Killed(BaseException):
        pass

    def kill(log: object) -> None:
        if first.step == 3:
            raise Killed

    with pytest.raises(Killed):
        first.run(on_step=kill)
    second = Trainer(config, tmp_path / "parts")
    assert second.resume()
    assert second.step == 2
    second.run()
    files = [
        tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "parts")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_adapter_needs_a_base(config: TrainConfig, checkpoint: Path) -> None:
    model = load_network(checkpoint).config
    with pytest.raises(ValueError, match="lora: an adapter belongs to a checkpoint; give base"):
        replace(config, base=None, model=model)


def test_from_the_command_line(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.py", tmp_path / "run"
    recipe.write_text(RECIPE.format(tiny=str(TINY), base=str(checkpoint)))
    code, said, err = run("train", recipe, "--out", out)
    assert (code, err, said) == (0, "", f"adapter: {out / 'adapter'}\n")
    words = ("generate", "hi", "--model", checkpoint, "--json")
    code, said, _ = run(*words, "--adapter", out / "adapter")
    assert code == 0
    assert len(json.loads(said)["token_ids"]) <= 10
    code, _, err = run(*words, "--adapter", tmp_path)
    assert code == 2
    assert "no adapter_config.json" in err
    with pytest.raises(ValueError, match="the adapter is of another checkpoint"):
        gesso.load("tiny", adapter=out / "adapter")

"""Two processes on gloo train as one does, however the weights lie on them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gesso
from gesso.config import ModelConfig
from gesso.generation_config import GenerationConfig
from gesso.model.lora import LoraConfig
from gesso.training import processes as processes_module
from gesso.training.config import (
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)
from gesso.training.processes import Processes
from gesso.training.trainer import StepLog, Trainer
from tests.conftest import TEXT

TINY = Path(gesso.__file__).parent / "assets" / "tiny"
ROOT = Path(__file__).parents[2]
STEPS, HALF = 4, 2
RUNS: dict[str, dict[str, Any]] = {
    "sharded": {},
    "experts": dict(expert_parallel=2, accumulate=2, checkpoint_activations=True),
    "continued": {},
    "adapter": dict(lora=LoraConfig(rank=2), expert_parallel=2),
}
# Sums of float32 in another order, through four steps of Adam, whose first ones divide by what may
# be rounding alone.
CLOSE = dict(rtol=2e-4, atol=2e-5)


def recipe(**options: Any) -> TrainConfig:
    text = TEXT | dict(vocab_size=2560, sliding_window=16, max_position_embeddings=2048)
    model = ModelConfig.parse(
        dict(model_type="diffusion_gemma", text_config=text, canvas_length=16, eos_token_id=1)
    )
    start = dict(base=TINY) if "lora" in options else dict(model=model)
    return TrainConfig(
        steps=STEPS, batch_size=4, candidates=2, tasks={"brackets": 1.0}, processor=TINY,
        generation=GenerationConfig(max_new_tokens=16, eos_token_ids=(1, 16)),
        # Few rows look twice or more, so that some process has none that does.
        objective=ObjectiveConfig(self_conditioning=0.3, unroll=0.7, unroll_steps=3, draws=2),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2, ema_decay=0.9),
        dtype="float32", device="cpu", save_every=100, log_every=1, **start, **options,
    )  # fmt: skip


def stop_at(step: int) -> Callable[[StepLog], None]:
    def on_step(log: StepLog) -> None:
        if log.step == step:
            raise InterruptedError

    return on_step


def losses(folder: Path) -> list[list[float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        [line[key] for key in ("loss", "denoise", "causal", "denoise_hits", "grad_norm")]
        for line in lines
    ]


def assert_close(folder: Path, other: Path, *, atol: float = CLOSE["atol"]) -> None:
    torch.testing.assert_close(
        torch.tensor(losses(folder)), torch.tensor(losses(other)), rtol=1e-4, atol=1e-6
    )
    state, expected = (load_file(f / "state.safetensors") for f in (folder, other))
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            state[name], tensor, msg=lambda m, n=name: f"{n}: {m}", rtol=CLOSE["rtol"], atol=atol
        )


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """One test, so that what takes a minute to make is made once."""
    make_runs(tmp_path)
    for name in ("sharded", "experts", "continued"):
        assert_close(tmp_path / name, tmp_path / "one")
    check_adapters(tmp_path)
    check_that_one_resumes_what_two_began(tmp_path)
    check_that_what_two_shipped_loads(tmp_path)


def make_runs(folder: Path) -> None:
    """One process's runs, the first half of one, and then two processes' of the same recipes."""
    Trainer(recipe(), folder / "one").run()
    Trainer(recipe(lora=LoraConfig(rank=2)), folder / "one-adapter").run()
    trainer = Trainer(recipe(), folder / "continued")
    with pytest.raises(InterruptedError):
        trainer.run(on_step=stop_at(HALF))
    trainer.save()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         "-m", "tests.training.run_processes", str(folder)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def check_adapters(runs: Path) -> None:
    # Half of the factors begin at 0, so the others' first gradients are rounding, which Adam makes
    # steps of the learning rate's size of: 3e-3, of which this is a thirtieth.
    atol = 1e-4
    assert_close(runs / "adapter", runs / "one-adapter", atol=atol)
    ours, expected = (
        load_file(runs / name / "adapter" / "adapter_model.safetensors")
        for name in ("adapter", "one-adapter")
    )
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=CLOSE["rtol"], atol=atol)


def check_that_one_resumes_what_two_began(runs: Path) -> None:
    trainer = Trainer(recipe(), runs / "half")
    assert trainer.resume()
    assert trainer.step == HALF
    trainer.run()
    assert_close(runs / "half", runs / "one")


def check_that_what_two_shipped_loads(runs: Path) -> None:
    ours, expected = (
        gesso.load(runs / name / "checkpoint", dtype="float32").network.state_dict()
        for name in ("experts", "one")
    )
    for name, tensor in expected.items():
        # Both were rounded to bf16.
        torch.testing.assert_close(ours[name], tensor, rtol=2**-7, atol=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=5), "batch_size: got 5 for 2 processes; give a multiple"),
        (dict(optimizer=OptimizerConfig(method="muon")), "muon needs whole matrices"),
        (dict(expert_parallel=3), "expert_parallel: got 3 with 2 processes and 6 experts"),
    ],
)
def test_refusals(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Processes, "join", lambda: Processes(0, 2))
    with pytest.raises(ValueError, match=message):
        Trainer(replace(recipe(), **options), tmp_path)


def test_several_gpus_do_not_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Processes, "join", lambda: Processes(0, 2))
    monkeypatch.setattr(processes_module, "pick_device", lambda _: torch.device("cuda"))
    judged = EvaluationConfig(task="brackets", every=2)
    with pytest.raises(ValueError, match=r"evaluation: got 2 processes on GPUs.*; leave"):
        Trainer(replace(recipe(), evaluation=judged), tmp_path)

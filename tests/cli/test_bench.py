"""`gesso bench`: the report, printed and written. What it measures is tested elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gesso.bench.cap import capped, parse_cap
from gesso.cache import KVCache
from gesso.engine.joined import JoinedSteps
from gesso.terminal.tables import print_bench
from tests.cli.conftest import Run

REPORT = {
    "bench": "generate",
    "contenders": [
        dict(
            name="gesso",
            dtype="float32",
            tokens_per_second_median=2.0,
            tokens_per_second_all=[1.0, 2.0],
            ms_per_forward_median=3.0,
        ),
    ],
    "ratios": {"a / b": 2.0},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command asked of the library."""
    seen: list[dict[str, Any]] = []

    def bench(
        source: str, *, on_round: Callable[[int, int], None], **options: Any
    ) -> dict[str, Any]:
        seen.append(dict(source=source, **options))
        on_round(1, 1)
        return REPORT

    monkeypatch.setattr("gesso.bench.bench_generate", bench)
    return seen


def test_report(run: Run, calls: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    words = ("--steps", 4, "--rounds", 2, "--threads", 1, "--peer", "transformers")
    code, out, err = run("bench", "generate", "--model", "m", *words, "--json", "--out", file)
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(file.read_text()) == REPORT
    assert calls == [dict(source="m", peer="transformers", steps=4, rounds=2, threads=1)]


def test_table(run: Run, calls: list[dict[str, Any]]) -> None:
    code, out, err = run("bench", "generate")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == ["gesso", "float32", "2.0", "1.0", "to", "2.0", "3.00"]
    assert calls == [dict(source="tiny", peer=None, steps=16, rounds=5, threads=None)]


def test_serve(run: Run, checkpoint: Path) -> None:
    """Three requests of a random checkpoint by one user and by two."""
    words = ("--users", 2, 1, "--requests", 3, "--rounds", 2)
    code, out, err = run("bench", "serve", "--model", checkpoint, *words, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["task"], report["random_weights"]) == ("extract", False)
    assert [level["users"] for level in report["levels"]] == [1, 2]
    assert report["levels"][0]["slowdown"] == 1
    for level in report["levels"]:
        assert len(level["tokens_per_second_all"]) == 2
        assert 0 < level["first_draft_p50"] <= level["latency_p50"] <= level["latency_p99"]
    code, out, _ = run("bench", "serve", "--model", checkpoint, *words)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["1", "2", "memory:"]


def test_serve_random_weights(run: Run, checkpoint: Path) -> None:
    """Random prompts, of which every canvas takes all its steps."""
    words = ["--model", checkpoint, "--random", "--users", 1, 3, "--requests", 4, "--rounds", 1]
    words += ["--context", 9, "--steps", 2, "--canvases", 3, "--quantize", "fp8"]
    words += ["--kv-cache-dtype", "fp8", "--device", "cpu", "--dtype", "float32"]
    code, out, err = run("bench", "serve", *words, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    asked = {name: report[name] for name in ("task", "context", "steps", "canvases")}
    assert asked == dict(task=None, context=9, steps=2, canvases=3)
    assert (report["random_weights"], report["quantize"]) == (True, "fp8")
    for level in report["levels"]:
        # All requests in one time: 4 of 3 canvases of 5 tokens, 6 steps each one after the other.
        seconds = 4 * 15 / level["tokens_per_second_median"]
        assert level["seconds_per_step_p50"] * 6 <= level["latency_p99"] <= seconds
    code, _, err = run("bench", "serve", *words, "--compile")
    assert (code, "random weights" in err) == (2, True)
    code, _, err = run("bench", "serve", "--steps", 0)
    assert (code, "steps: got 0" in err) == (2, True)


def test_a_cap_is_for_a_gpu(run: Run, checkpoint: Path) -> None:
    words = ("bench", "serve", "--model", checkpoint, "--device", "cpu")
    code, _, err = run(*words, "--cap", "18GB")
    assert (code, "cap: got '18GB' on cpu" in err) == (2, True)
    code, _, err = run(*words, "--cap", "lots")
    assert (code, "cap: got 'lots'; expected bytes" in err) == (2, True)


def test_a_cap_ends_with_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=72 * 10**9)
    )
    monkeypatch.setattr(
        "torch.cuda.set_per_process_memory_fraction", lambda share, device: shares.append(share)
    )
    gpu = torch.device("cuda")
    with capped(gpu, parse_cap("18GB", gpu)):
        assert shares == [0.25]
    assert shares == [0.25, 1.0]


@pytest.mark.parametrize("random", [False, True])
def test_step(run: Run, checkpoint: Path, random: bool) -> None:
    """Of a checkpoint, or of random weights in its shape; in few bits too."""
    words = ["--model", checkpoint, "--steps", 2, "--rounds", 2, "--context", 9, "--rows", 2]
    words += ["--random"] if random else ["--quantize", "nvfp4"]
    code, out, err = run("bench", "step", *words, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert len(report["ms_per_step_all"]) == 2
    assert report["over_floor"] == pytest.approx(report["ms_per_step"] / report["floor_ms"])
    # All that is read once is less than the whole checkpoint with its head twice.
    assert 0 < report["bytes"] < 3 * (checkpoint / "model.safetensors").stat().st_size
    assert 1 <= report["experts_touched"] <= 8
    code, out, _ = run("bench", "step", *words)
    assert code == 0
    assert "floor" in out


def test_the_engine_s_answers_leave_prompts_out(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = JoinedSteps.encode

    def note(self: JoinedSteps, ids: Tensor, cache: KVCache) -> Tensor:
        encoded.append(ids.shape[1])
        return encode(self, ids, cache)

    monkeypatch.setattr(JoinedSteps, "encode", note)
    words = ["--model", checkpoint, "--random", "--rows", 2, "--context", 9, "--steps", 2]
    words += ["--canvases", 3, "--rounds", 2, "--device", "cpu", "--dtype", "float32"]
    code, out, err = run("bench", "step", *words, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    speeds = report["tokens_per_second_engine_all"]
    assert len(speeds) == 2
    assert min(speeds) <= report["tokens_per_second_engine"] <= max(speeds)
    assert 9 not in encoded
    # Two canvases of 5 tokens of each of 2 rows, in 3 rounds (the first does not count), by steps
    # alone and by the engine.
    assert encoded.count(5) == 2 * 2 * 3 * 2


def test_a_peer_s_steps_beside_ours(
    run: Run,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of random weights in the same shape; as it runs without compilation, which takes minutes."""
    peer = pytest.importorskip("gesso.bench.transformers_peer")
    monkeypatch.setattr(peer, "_CACHES", (None,))
    words = ["--model", checkpoint, "--random", "--rows", 2, "--context", 9, "--steps", 2]
    words += ["--canvases", 2, "--rounds", 2, "--dtype", "float32", "--peer", "transformers"]
    code, out, err = run("bench", "step", *words, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    [found] = report["peers"]
    assert report["notes"] == []
    assert (found["name"], found["dtype"]) == ("transformers", "float32")
    assert found["version"] == peer.transformers.__version__
    assert len(found["ms_per_step_all"]) == len(found["tokens_per_second_all"]) == 2
    # Two rows of two canvases of 5 tokens: three steps, and one with the encoding between them.
    for ms, speed in zip(found["ms_per_step_all"], found["tokens_per_second_all"], strict=True):
        assert 0 < 3 * ms / 1e3 < 20 / speed
    print_bench(report | {"notes": ["one of it failed"]})
    shown = capsys.readouterr().out
    assert f"\ntransformers {found['version']}, float32: " in shown
    assert f"\nengine      {report['tokens_per_second_engine']:,.0f} tokens/s" in shown
    assert "\nnote: one of it failed\n" in shown


def test_a_peer_that_fails_is_noted(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory\nand more")

    peer = pytest.importorskip("gesso.bench.transformers_peer")
    monkeypatch.setattr(peer.Transformers, "draft_times", fail)
    words = ("--model", checkpoint, "--random", "--steps", 2, "--rounds", 1, "--context", 9)
    code, out, err = run("bench", "step", *words, "--peer", "transformers", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["peers"] == []
    assert report["notes"][0] == "transformers failed: RuntimeError: out of memory"
    assert len(report["notes"]) == 2
    monkeypatch.setattr(peer, "transformers_drafters", fail)
    code, out, err = run("bench", "step", *words, "--peer", "transformers", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["notes"] == ["transformers failed: RuntimeError: out of memory"]


def test_what_no_peer_can_be_asked(run: Run, checkpoint: Path) -> None:
    words = ("bench", "step", "--model", checkpoint, "--peer", "transformers")
    code, _, err = run(*words, "--steps", 1, "--canvases", 1)
    assert (code, "give more steps" in err) == (2, True)
    code, _, err = run(*words, "--vary", "rows", "--over", 1)
    assert (code, "--peer and --vary" in err) == (2, True)


def test_prefill(run: Run, checkpoint: Path) -> None:
    words = ["--model", checkpoint, "--tokens", 40, 7, "--chunk", 6, "--dtype", "float32"]
    code, out, err = run("bench", "prefill", *words, "--json")
    assert (code, err) == (0, "")
    prompts = json.loads(out)["prompts"]
    assert [(p["tokens"], p["same_draft"]) for p in prompts] == [(7, True), (40, True)]
    assert prompts[0]["cache_bytes"] < prompts[1]["cache_bytes"]
    code, out, _ = run("bench", "prefill", *words)
    assert code == 0
    assert out.count("the same") == 2
    code, _, err = run("bench", "prefill", "--model", checkpoint, "--tokens", 10**6)
    assert code == 2
    assert "the context of the model is 512" in err


def test_the_file_s_folder_is_looked_for_before_the_work(
    run: Run, calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    code, _, err = run("bench", "generate", "--out", tmp_path)
    assert (code, "a folder; give the name of a file" in err) == (2, True)
    code, _, err = run("bench", "generate", "--out", tmp_path / "no" / "report.json")
    assert (code, calls) == (2, [])
    assert "no such folder" in err
    code, _, err = run("bench", "generate", "--out", tmp_path / "report.png")
    assert (code, calls) == (2, [])
    assert "which is the plot's name; name the report X.json" in err
    code, _, err = run("bench", "generate", "--out", "/proc/report.json")
    assert (code, calls) == (2, [])
    assert "cannot be written" in err


def test_a_sweep_and_its_plot(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "steps.json"
    words = ("--steps", 1, "--canvases", 1, "--context", 16, "--rounds", 1, "--threads", 1)
    vary = ("--vary", "rows", "--over", 1, 2)
    code, out, err = run("bench", "step", *words, *vary, "--device", "cpu", "--out", file)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["rows", "1", "2"]
    points = json.loads(file.read_text())["points"]
    assert [point["rows"] for point in points] == [1, 2]
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


def test_half_a_sweep(run: Run) -> None:
    code, out, err = run("bench", "step", "--vary", "rows")
    assert (code, out) == (2, "")
    assert "--over" in err

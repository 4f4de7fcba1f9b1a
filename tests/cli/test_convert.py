"""`gesso convert`: what it writes, what it says, and what it refuses in a line."""

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_json(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "few"
    code, text, err = run("convert", checkpoint, "--out", out, "--quantize", "nvfp4", "--json")
    assert (code, err) == (0, "")
    size = (out / "model.safetensors").stat().st_size
    assert json.loads(text) == {
        "folder": str(out),
        "quantize": "nvfp4",
        "bytes": size,
        "source_bytes": (checkpoint / "model.safetensors").stat().st_size,
    }
    assert {path.name for path in checkpoint.iterdir()} == {path.name for path in out.iterdir()}
    code, text, _ = run("info", "--model", out)
    assert code == 0
    assert "on disk, fp8 and nvfp4 (compressed-tensors), the rest float32\n" in text
    about = json.loads(run("info", "--model", out, "--json").out)
    assert about["quantization"] == {"method": "compressed-tensors", "formats": ["fp8", "nvfp4"]}
    code, text, _ = run("generate", "Extract: x", "--model", out, "--json")
    assert code == 0


def test_calibrated(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    examples = tmp_path / "mine.jsonl"
    examples.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    given = ("convert", checkpoint, "--quantize", "int4", "--json")
    for name, words in dict(plain=[], known=["--calibrate", examples, "--prompts", "1"]).items():
        code, out, err = run(*given, "--out", tmp_path / name, *words)
        assert (code, err, json.loads(out)["quantize"]) == (0, "", "int4")
    plain, known = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("plain", "known"))
    assert len(plain) == len(known)
    assert plain != known


def test_a_copy_in_shards(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, text, _ = run("convert", checkpoint, "--out", tmp_path / "copy", "--shard-bytes", "1e5")
    assert code == 0
    assert text.startswith(f"{tmp_path / 'copy'}: ")
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 2
    assert (
        json.loads(run("info", "--model", tmp_path / "copy", "--json").out)["quantization"] is None
    )


def test_mistakes(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run("convert", checkpoint, "--out", out, "--quantize", "int3")
    assert (code, "expected one of fp8, nvfp4, int4" in err) == (2, True)
    code, _, err = run("convert", checkpoint, "--out", out, "--shard-bytes", "0")
    assert (code, "--shard-bytes: got 0" in err) == (2, True)
    code, _, err = run("convert", checkpoint, "--out", out, "--adapter", tmp_path / "none")
    assert (code, "no adapter_config.json" in err) == (2, True)
    code, _, err = run("convert", checkpoint, "--out", out, "--calibrate", "extract")
    assert (code, "--calibrate: says how weights are rounded" in err) == (2, True)
    calibrated = ("convert", checkpoint, "--out", out, "--quantize", "fp8", "--calibrate")
    assert "unknown task 'extracts'" in run(*calibrated, "extracts").err
    assert "--prompts: got 0" in run(*calibrated, "extract", "--prompts", "0").err
    code, _, err = run("convert", checkpoint)
    assert (code, "--out" in err) == (2, True)
    code, _, err = run("convert", checkpoint, "--out", "")
    assert (code, "--out: got ''" in err) == (2, True)
    assert not out.exists()

"""`gesso info`: counts that agree with the network's own tensors."""

import json
from pathlib import Path

from gesso.checkpoint import load_network
from tests.cli.conftest import Run


def test_json(run: Run, checkpoint: Path) -> None:
    code, out, err = run("info", "--model", checkpoint, "--json")
    assert (code, err) == (0, "")
    about = json.loads(out)
    network = load_network(checkpoint)
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    assert about["parameters"]["total"] == sum(sizes.values())
    assert about["parameters"]["experts"] == experts
    # Two of six experts are active.
    assert about["parameters"]["active"] == sum(sizes.values()) - experts * 4 // 6
    assert about["layers"]["types"] == ["sliding_attention", "full_attention", "full_attention"]
    assert (about["canvas_length"], about["vocabulary"], about["context"]) == (5, 2560, 512)
    assert about["bytes"] == (checkpoint / "model.safetensors").stat().st_size
    assert about["generation"]["max_denoising_steps"] == 3
    assert (about["chat_template"], about["vision"]) == (True, True)


def test_table(run: Run, checkpoint: Path) -> None:
    _, out, _ = run("info", "--model", checkpoint)
    assert "\ncanvas          5 tokens\n" in out
    assert "3: 1 sliding (window 6), 2 full" in out
    assert "chat template   yes\n" in out


def test_without_an_option(run: Run, checkpoint: Path) -> None:
    named = run("info", "--model", checkpoint, "--json")
    assert run("info", checkpoint, "--json") == named
    assert run("info", "").code == 2
    code, _, err = run("info", checkpoint, "--model", "sudoku9")
    assert code == 2
    assert "argument --model: not allowed with argument M" in err


def test_a_folder_with_its_config_alone(run: Run, checkpoint: Path) -> None:
    for file in checkpoint.iterdir():
        if file.name != "config.json":
            file.unlink()
    code, out, _ = run("info", "--model", checkpoint)
    assert code == 0
    assert "weights         none here" in out
    assert "chat template   no" in out


def test_no_checkpoint(run: Run, tmp_path: Path) -> None:
    code, _, err = run("info", "--model", tmp_path)
    assert code == 2
    assert "config.json" in err

"""The mean of checkpoints: every tensor's, with the last one's defaults."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gesso.checkpoint import load_network, save_checkpoint
from gesso.generation.model import DiffusionGemma
from gesso.model.network import Network
from recipes import average
from tests.terminal.conftest import TINY


def test_mean(
    dg: DiffusionGemma,
    make_network: Callable[..., Network],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        network = make_network(vocab_size=2560, vision=False, seed=seed)
        generation = replace(dg.generation, max_denoising_steps=3 + seed)
        save_checkpoint(network, folder, generation=generation, processor=TINY)
    out = tmp_path / "mean"
    monkeypatch.setattr(sys, "argv", ["average.py", *map(str, folders), "--out", str(out)])
    average.main()
    first, second, mean = (load_file(f / "model.safetensors") for f in (*folders, out))
    assert first.keys() == mean.keys()
    for name, tensor in mean.items():
        assert torch.equal(tensor, ((first[name] + second[name]) / 2).bfloat16())
    load_network(out)
    assert '"max_denoising_steps": 4' in (out / "generation_config.json").read_text()


@pytest.mark.parametrize("order", [1, -1])
def test_another_shape_has_no_mean_with_it(
    dg: DiffusionGemma,
    make_network: Callable[..., Network],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    order: int,
) -> None:
    """Also one whose weights the other has all of."""
    folders = [tmp_path / name for name in ("first", "second")]
    network = make_network(vocab_size=2560, vision=False)
    for canvas, folder in zip((8, 4), folders, strict=True):
        network.config = replace(network.config, canvas_length=canvas)
        save_checkpoint(network, folder, generation=dg.generation, processor=TINY)
    given, out = folders[::order], tmp_path / "mean"
    monkeypatch.setattr(sys, "argv", ["average.py", *map(str, given), "--out", str(out)])
    with pytest.raises(ValueError, match=rf"{given[0]}: .* another shape than {given[1]}'s; give"):
        average.main()
    assert not out.exists()

"""Saving: the published layout, the same bytes each time, and never half a checkpoint."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from gesso.checkpoint import (
    load_network,
    read_config,
    read_generation_config,
    resolve,
    save_checkpoint,
)
from gesso.checkpoint.hub import EMBEDDED
from gesso.generation_config import GenerationConfig
from gesso.model.network import Network

SHARD = 40_000  # bytes: several shards for the small network


@pytest.fixture
def network(make_network: Callable[..., Network]) -> Network:
    return make_network()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("max_shard_bytes", [10**9, SHARD])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_save_load_save_is_byte_identical(
    network: Network, tmp_path: Path, dtype: torch.dtype | None, max_shard_bytes: int
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    generation = GenerationConfig(eos_token_ids=(1, 3, 9), entropy_bound=0.3, verify=True)
    save_checkpoint(
        network, first, generation=generation, dtype=dtype, max_shard_bytes=max_shard_bytes
    )
    save_checkpoint(
        load_network(first),
        second,
        generation=read_generation_config(first),
        max_shard_bytes=max_shard_bytes,
    )
    assert contents(first) == contents(second)
    assert read_generation_config(first) == generation


@pytest.mark.parametrize("config", ["config.json", "config_real_style.json"])
def test_what_transformers_wrote_survives(reference: Path, tmp_path: Path, config: str) -> None:
    """Every tensor byte by byte, and a config that parses to the same value."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_bytes((reference / config).read_bytes())
    (theirs / "model.safetensors").write_bytes((reference / "model.safetensors").read_bytes())
    save_checkpoint(load_network(theirs), tmp_path / "ours", generation=None)
    before, after = (load_file(f / "model.safetensors") for f in (theirs, tmp_path / "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_config(tmp_path / "ours") == read_config(theirs)


def test_dtype_is_written_down(network: Network, tmp_path: Path) -> None:
    save_checkpoint(network, tmp_path / "half", generation=None, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert load_network(tmp_path / "half").dtype == torch.bfloat16
    assert network.dtype == torch.float32  # the network itself stays as it was


def test_shards_and_their_index(network: Network, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    save_checkpoint(network, folder, generation=None, max_shard_bytes=SHARD)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    count = len(files)
    assert files == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    assert sorted(set(index["weight_map"].values())) == files
    size = 0
    for file in files:
        with safe_open(folder / file, "pt") as shard:
            names = list(shard.keys())
            assert shard.metadata() == {"format": "pt"}
        assert set(names) == {n for n, place in index["weight_map"].items() if place == file}
        data = sum(t.numel() * 4 for t in load_file(folder / file).values())
        assert data <= SHARD or len(names) == 1
        size += data
    assert index["metadata"]["total_size"] == size
    assert index["metadata"]["total_parameters"] == sum(p.numel() for p in network.parameters())


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_whoever_may_read_new_files_may_read_a_checkpoint(network: Network, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(network, tmp_path / "new", generation=None)
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    finally:
        os.umask(before)
    assert modes == {0o640}


def test_a_network_under_one_shard_has_no_index(network: Network, tmp_path: Path) -> None:
    save_checkpoint(network, tmp_path / "one", generation=None)
    assert sorted(contents(tmp_path / "one")) == ["config.json", "model.safetensors"]


def test_transformers_reads_the_defaults_too(network: Network, tmp_path: Path) -> None:
    """It refuses a generation_config.json that says more than it knows."""
    gemma = pytest.importorskip("transformers.models.diffusion_gemma.generation_diffusion_gemma")
    generation = GenerationConfig(eos_token_ids=(1,), max_denoising_steps=7, verify=True)
    save_checkpoint(network, tmp_path / "new", generation=generation)
    assert read_generation_config(tmp_path / "new") == generation
    for folder in (tmp_path / "new", *map(resolve, EMBEDDED)):
        theirs = gemma.DiffusionGemmaGenerationConfig.from_pretrained(folder)
        assert theirs.max_denoising_steps == read_generation_config(folder).max_denoising_steps
    # What is gesso's own does not outlive the weights that it was about.
    save_checkpoint(network, tmp_path / "new", generation=replace(generation, verify=False))
    assert not (tmp_path / "new" / "gesso.json").exists()


def test_an_adaptive_stop_that_is_off_stays_off(network: Network, tmp_path: Path) -> None:
    """null in the file means the default, so it is a threshold that nothing falls below."""
    for off in ("stability_threshold", "confidence_threshold"):
        generation = replace(GenerationConfig(eos_token_ids=(1,)), **{off: None})
        save_checkpoint(network, tmp_path / off, generation=generation)
        assert read_generation_config(tmp_path / off).confidence_threshold == 0


def test_the_processor_goes_along(network: Network, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja", "model.bin", "notes.txt"):
        (source / name).write_text(name)
    save_checkpoint(network, tmp_path / "new", generation=None, processor=source)
    assert {"tokenizer.json", "chat_template.jinja"} <= contents(tmp_path / "new").keys()
    assert not {"model.bin", "notes.txt"} & contents(tmp_path / "new").keys()
    with pytest.raises(ValueError, match=r"no tokenizer\.json to copy"):
        save_checkpoint(network, tmp_path / "newer", generation=None, processor=tmp_path)
    assert not (tmp_path / "newer").exists()


@pytest.mark.parametrize("before", [10**9, SHARD, SHARD // 2])
@pytest.mark.parametrize("after", [10**9, SHARD])
def test_a_checkpoint_is_replaced(
    make_network: Callable[..., Network], tmp_path: Path, before: int, after: int
) -> None:
    """One file or shards, fewer or more: no old weights are left, and foreign files stay."""
    folder = tmp_path / "checkpoint"
    save_checkpoint(make_network(seed=1), folder, generation=None, max_shard_bytes=before)
    (folder / "notes.txt").write_text("mine")
    save_checkpoint(make_network(seed=2), folder, generation=None, max_shard_bytes=after)
    save_checkpoint(make_network(seed=2), tmp_path / "new", generation=None, max_shard_bytes=after)
    assert contents(folder) == contents(tmp_path / "new") | {"notes.txt": b"mine"}
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "new"]


@pytest.mark.parametrize("before", [10**9, SHARD])
@pytest.mark.parametrize("after", [10**9, SHARD])
@pytest.mark.parametrize("moves", range(4))
def test_a_crash_while_replacing(
    make_network: Callable[..., Network],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    after: int,
    moves: int,
) -> None:
    """After any number of moved files: the folder loads as the new one or not at all, and the
    new one lies whole in it and in one within."""
    folder, old, new = tmp_path / "checkpoint", make_network(seed=1), make_network(seed=2)
    save_checkpoint(old, folder, generation=None, max_shard_bytes=before)
    done, move = [], os.replace

    def crash(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target.name)
        move(source, target)

    monkeypatch.setattr(os, "replace", crash)
    try:
        save_checkpoint(new, folder, generation=None, max_shard_bytes=after)
    except KeyboardInterrupt:
        with pytest.raises(ValueError, match="safetensors"):
            load_network(folder)
        (partial,) = folder.glob(".partial-*")
        for path in partial.iterdir():
            move(path, folder / path.name)
    loaded = load_network(folder).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in new.state_dict().items())


def test_a_crash_while_writing_leaves_everything_as_it_was(
    make_network: Callable[..., Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(make_network(seed=1), folder, generation=None)
    before = contents(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("gesso.checkpoint.write.save_file", full)
    for target in (folder, tmp_path / "other"):
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(make_network(seed=2), target, generation=None)
    assert contents(folder) == before
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_a_diverged_network_is_not_saved(network: Network, tmp_path: Path) -> None:
    network.layers[1].router.scale[3] = torch.nan
    with pytest.raises(ValueError, match=r"layers.1.router.scale in torch.float32: holds NaN"):
        save_checkpoint(network, tmp_path / "new", generation=None)
    network.layers[1].router.scale[3] = 1e6
    with pytest.raises(ValueError, match=r"scale in torch.float16: .* save in a wider dtype"):
        save_checkpoint(network, tmp_path / "new", generation=None, dtype=torch.float16)
    assert not os.listdir(tmp_path)


def test_nothing_is_left_of_another_checkpoint(network: Network, tmp_path: Path) -> None:
    """What the new one does not have is none of its own; logs and the like are nobody's."""
    assets = resolve("tiny")
    bare, folder = tmp_path / "bare", tmp_path / "folder"
    bare.mkdir()
    shutil.copy(assets / "tokenizer.json", bare)
    save_checkpoint(network, folder, generation=GenerationConfig(), processor=assets)
    (folder / "hf_quant_config.json").write_text("{}")
    (folder / "log.jsonl").write_text("")
    save_checkpoint(network, folder, generation=None, processor=bare)
    assert sorted(os.listdir(folder)) == [
        "config.json", "log.jsonl", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip


def test_unfit_arguments(network: Network, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be made .*; choose another folder"):
        save_checkpoint(network, tmp_path / "file" / "new", generation=None)
    with pytest.raises(ValueError, match="is a file; give the name of a folder"):
        save_checkpoint(network, tmp_path / "file", generation=None)
    with pytest.raises(ValueError, match=r"dtype is torch\.int8; expected one of"):
        save_checkpoint(network, tmp_path / "new", generation=None, dtype=torch.int8)
    with pytest.raises(ValueError, match="max_shard_bytes is 0; expected at least 1"):
        save_checkpoint(network, tmp_path / "new", generation=None, max_shard_bytes=0)

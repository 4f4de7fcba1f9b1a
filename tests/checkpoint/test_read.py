"""Loading: what is read, what is refused and how that is said, and how much memory it takes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gesso.checkpoint import (
    convert_checkpoint,
    load_network,
    read_config,
    read_generation_config,
    save_checkpoint,
)
from gesso.checkpoint.names import published_name
from gesso.checkpoint.read import DTYPES
from gesso.generation_config import GenerationConfig
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network, stored_bytes

SCALE = "model.decoder.layers.1.router.scale"


@pytest.fixture
def folder(make_network: Callable[..., Network], tmp_path: Path) -> Path:
    """A small checkpoint in one file."""
    save_checkpoint(make_network(), tmp_path / "checkpoint", generation=None)
    return tmp_path / "checkpoint"


@pytest.fixture
def sharded(make_network: Callable[..., Network], tmp_path: Path) -> Path:
    """The same in several."""
    save_checkpoint(make_network(), tmp_path / "sharded", generation=None, max_shard_bytes=40_000)
    return tmp_path / "sharded"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def reindex(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def same(network: Network, other: Network) -> bool:
    mine, yours = network.state_dict(), other.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[k], yours[k]) for k in mine)


def test_every_tensor_arrives(folder: Path) -> None:
    network = load_network(folder)
    stored = load_file(folder / "model.safetensors")
    assert {published_name(name) for name in network.state_dict()} == stored.keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, stored[published_name(name)])
        assert not tensor.is_meta
    fresh = Network(read_config(folder))
    assert {n for n, _ in network.named_parameters()} == {n for n, _ in fresh.named_parameters()}
    assert {n for n, _ in network.named_buffers()} == {n for n, _ in fresh.named_buffers()}


def test_shards_give_the_same_network(folder: Path, sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert same(load_network(folder), load_network(sharded))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype(folder: Path, dtype: torch.dtype) -> None:
    network = load_network(folder, dtype=dtype)
    assert {t.dtype for t in network.state_dict().values()} == {dtype}
    exact = load_network(folder).state_dict()
    assert all(torch.equal(t, exact[n].to(dtype)) for n, t in network.state_dict().items())


def test_dtype_of_the_config(folder: Path) -> None:
    """The file's tensors are float32; what config.json names is what is loaded."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert load_network(folder).dtype == torch.bfloat16
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "int4"}))
    with pytest.raises(ValueError, match=r"dtype is 'int4'; expected one of float32"):
        load_network(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nothing", [{}, {"dtype": None}, {"dtype": ""}], ids=str)
def test_a_config_without_a_dtype(
    folder: Path, dtype: torch.dtype, nothing: dict[str, Any]
) -> None:
    """What most bytes are in: here all but one tensor."""
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config | nothing))
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: t if name == SCALE else t.to(dtype) for name, t in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    assert load_network(folder).dtype == dtype
    convert_checkpoint(folder, folder / "copy")
    assert read_config(folder / "copy") == read_config(folder)
    assert DTYPES[read_config(folder).dtype] == dtype
    # A description alone is read all the same.
    (folder / "model.safetensors").unlink()
    assert read_config(folder).dtype == "bfloat16"


def test_a_dtype_that_is_none(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype is torch.int8; expected one of float32"):
        load_network(folder, dtype=torch.int8)


def test_second_copies_of_tied_tensors_are_ignored(folder: Path) -> None:
    plain = load_network(folder)

    def tie(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = torch.zeros(96, 32)
        for name in list(tensors):
            if name.startswith("model.decoder.") and not name.endswith("layer_scalar"):
                copy = name.replace("model.decoder.", "model.encoder.language_model.")
                tensors[copy] = torch.full_like(tensors[name], torch.nan)

    rewrite(folder, tie)
    assert same(load_network(folder), plain)


def test_a_text_checkpoint(make_network: Callable[..., Network], tmp_path: Path) -> None:
    save_checkpoint(make_network(vision=False), tmp_path / "text", generation=None)
    network = load_network(tmp_path / "text")
    assert network.vision is None
    cache = network.new_cache(batch_size=1)
    assert network.encode(torch.tensor([[5]]), cache=cache).isfinite().all()


def test_generation_config(folder: Path, reference: Path) -> None:
    """Absent: the defaults, with the model's own end tokens. Nulls, as some writers leave: too."""
    assert read_generation_config(folder) == GenerationConfig(eos_token_ids=(1, 3))
    assert read_generation_config(reference) == GenerationConfig(eos_token_ids=(1,))
    (folder / "generation_config.json").write_text('{"max_denoising_steps": 0}')
    with pytest.raises(ValueError, match=r"generation_config\.json: max_denoising_steps: got 0"):
        read_generation_config(folder)
    (folder / "config.json").write_text('{"model_type": "gemma4"}')
    with pytest.raises(ValueError, match=r"/config\.json: model_type is 'gemma4'"):
        read_generation_config(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(SCALE), rf"1 missing tensor \({SCALE}\)"),
        (
            lambda t: [t.pop(n) for n in list(t) if "decoder.layers.0.self_attn" in n],
            r"6 missing tensors \(.*k_norm.weight, .*q_norm.weight, .*, \.\.\.\)",
        ),
        (
            lambda t: t.update({"model.decoder.layers.0.gate.bias": torch.zeros(2)}),
            r"1 unknown tensor \(model.decoder.layers.0.gate.bias\)",
        ),
        (
            lambda t: t.update({f"{SCALE}.copy": t.pop(SCALE)}),
            r"1 missing tensor .* and 1 unknown tensor",
        ),
        (
            lambda t: t.update({SCALE: torch.zeros(31)}),
            rf"{SCALE} has shape \[31\], expected \[32\]",
        ),
        (lambda t: t[SCALE].fill_(torch.nan), rf"{SCALE}: holds NaN or infinite"),
        (lambda t: t[SCALE][3:4].fill_(-torch.inf), rf"{SCALE}: holds NaN or infinite"),
        (
            lambda t: t.update({SCALE: torch.zeros(32, dtype=torch.uint8)}),
            r"1 tensor \(.*scale\) in U8: a quantized checkpoint \(no quantization_config",
        ),
    ],
)
def test_unfit_tensors(
    folder: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        load_network(folder)


def test_values_beyond_the_range_of_the_dtype(folder: Path) -> None:
    rewrite(folder, lambda t: t[SCALE].fill_(1e5))
    assert load_network(folder, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=rf"{SCALE} has values beyond the range of torch.float16"):
        load_network(folder, dtype=torch.float16)


@pytest.mark.parametrize("size", [0, 4, 500, -1])
def test_a_file_cut_short(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model.safetensors: .*cut short or damaged"):
        load_network(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pickles_are_not_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ValueError, match=rf"1 file \({name}\), .*safetensors only"):
        load_network(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no weights; expected model\.safetensors or"):
        load_network(folder)


def test_no_folder_and_no_config(folder: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        load_network(folder / "nowhere")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json: no such file"):
        load_network(folder)


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="a checkpoint in shards needs its index"):
        load_network(sharded)


def test_one_file_beside_an_index(folder: Path, sharded: Path) -> None:
    shutil.copyfile(folder / "model.safetensors", sharded / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds both .* remove the one that is out of date"):
        load_network(sharded)


def test_a_shard_that_is_not_there(sharded: Path) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(ValueError, match=rf"names 1 shard \({shards[1].name}\)"):
        load_network(sharded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop(SCALE), rf"holds 1 tensor \({SCALE}\) that .* does not place there"),
        (lambda m: m.update(x=m[SCALE]), r"lacks 1 tensor \(x\) that .*index.json places there"),
        (lambda m: m.update({SCALE: "../model.safetensors"}), "not the name of a file beside"),
        (lambda m: m.clear(), "has no weight_map"),
    ],
)
def test_index_and_shards_disagree(
    sharded: Path, change: Callable[[dict[str, str]], Any], message: str
) -> None:
    reindex(sharded, change)
    with pytest.raises(ValueError, match=message):
        load_network(sharded)


def test_a_shard_cut_short(sharded: Path) -> None:
    last = max(sharded.glob("*.safetensors"))
    last.write_bytes(last.read_bytes()[:-8])
    with pytest.raises(ValueError, match=rf"{last.name}: .*cut short or damaged"):
        load_network(sharded)


MEASURE = """
import sys
from pathlib import Path
import torch
from gesso.checkpoint import load_network
from gesso.model.quantize import SCHEMES

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

torch.set_num_threads(1)
small, large, dtype, *name = sys.argv[1:]
options = dict(dtype=getattr(torch, dtype), quantize=SCHEMES[name[0]] if name else None)
load_network(Path(small), **options)  # what torch sets up at first use is not the model's
before = memory("VmRSS")
network = load_network(Path(large), **options)
print(memory("VmHWM") - before)
"""


@pytest.fixture
def large(make_network: Callable[..., Network], tmp_path: Path) -> Path:
    """70 MB of float32 weights."""
    network = make_network(
        vision=False, vocab_size=4096, hidden_size=512, num_experts=16, moe_intermediate_size=192
    )
    save_checkpoint(network, tmp_path / "large", generation=None)
    return tmp_path / "large"


def peak_memory(*arguments: Path | str) -> int:
    """As the kernel counts it, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        # What is freed goes back at once: holes between small tensors are not the model's either.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"},
    )
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own count")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_is_the_model_and_one_tensor(folder: Path, large: Path, dtype: str) -> None:
    stored = [t.nbytes for t in load_network(large).state_dict().values()]
    model = sum(stored) * getattr(torch, dtype).itemsize / 4
    # One tensor as stored and as cast, and 8 MB of slack for headers and the allocator. A file
    # that stays mapped, or a second copy of the model, would add 30 MB at least.
    most = model + 1.5 * max(stored) + 8e6
    assert most < model + sum(stored) / 2
    assert 0.9 * model < peak_memory(folder, large, dtype) < most


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own count")
@pytest.mark.parametrize("name", ["fp8", "nvfp4"])
def test_peak_memory_of_quantizing_is_the_small_model_and_one_tensor(
    folder: Path, large: Path, name: str
) -> None:
    wide = load_network(large)
    stored = [t.nbytes for t in wide.state_dict().values()]
    quantize_network(wide, SCHEMES[name])
    model = stored_bytes(wide)
    # A stack as stored, what one of its matrices is rounded in (ten times its 0.8 MB of float32),
    # and 8 MB of slack.
    most = model + max(stored) + 8e6 + 8e6
    assert most < sum(stored) - max(stored)
    assert 0.9 * model < peak_memory(folder, large, "float32", name) < most

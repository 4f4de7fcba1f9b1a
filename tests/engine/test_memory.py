"""The memory plan: amounts, limits, and what fits at the released shape."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gesso.cache import CacheWriter, cache_bytes
from gesso.engine import Engine, memory
from gesso.engine.device import DeviceSteps
from gesso.engine.joined import JoinedSteps
from gesso.engine.memory import parse_bytes, plan_memory
from gesso.generation.model import DiffusionGemma
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, quantize_network
from recipes import released


@pytest.mark.parametrize(
    ("amount", "found"),
    [(5, 5), ("18GB", 18 * 10**9), ("1.5 GiB", 3 * 2**29), ("512MiB", 2**29), ("7", 7)],
)
def test_amounts(amount: int | str, found: int) -> None:
    assert parse_bytes(amount) == found


@pytest.mark.parametrize("amount", ["", "GB", "-1", "1 parsec", True, -5])
def test_bad_amounts(amount: int | str) -> None:
    with pytest.raises(ValueError, match="expected bytes, or a string such as '18GB'"):
        parse_bytes(amount)


def test_too_little(dg: DiffusionGemma) -> None:
    steps = JoinedSteps(dg.network)
    with pytest.raises(ValueError, match="give more, fewer rows, or quantize"):
        plan_memory(dg.network, steps, rows=1, chunk=8, limit="1KB")


def test_the_released_shape_in_18_gigabytes() -> None:
    """NVFP4 experts, FP8 otherwise, and 8K of context, by kernels; without the image encoder, whose
    1.15 GB in bf16 are too much. Of its tensors: what a process on a GPU takes besides was never
    measured."""
    with torch.device("meta"):
        network = Network(replace(released.SHAPE, vision=None)).to(torch.bfloat16)
        quantize_network(network, SCHEMES["nvfp4"])
        steps = DeviceSteps(network, rows=1)
    plan = plan_memory(network, steps, rows=1, chunk=1024, limit="18GB")
    assert 15.9e9 < plan.weights < 16.1e9
    columns = 8192 + 256
    own = cache_bytes(network.config.text, columns, network.dtype)
    assert 2 * own + steps.held([columns]) < plan.room  # twice while a chunk is encoded


def test_what_is_recorded_is_kept_beside_the_rest(dg: DiffusionGemma) -> None:
    """A graph's tensors are its own: those of every number of rows count again, a prompt's not."""
    with torch.device("meta"):
        network = Network(dg.network.config)
    here, elsewhere = (DeviceSteps(each, rows=4) for each in (dg.network, network))
    one = here.workspace(rows=1, chunk=1)
    for rows, recorded in ((1, 1), (3, 1 + 2 + 3), (4, 1 + 2 + 4)):
        assert here.workspace(rows=rows, chunk=1) == rows * one
        assert elsewhere.workspace(rows=rows, chunk=1) == (rows + recorded) * one
        long = [steps.workspace(rows=rows, chunk=10**6) for steps in (here, elsewhere)]
        assert long[0] > rows * one
        assert long[1] - long[0] == recorded * one


def test_by_default_what_is_free(dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the weights, which are there."""
    monkeypatch.setattr("gesso.engine.memory._free_bytes", lambda device: 10**9)
    plan = plan_memory(dg.network, JoinedSteps(dg.network), rows=1, chunk=8)
    assert plan.limit - plan.weights == 9 * 10**8


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system says, or all that the machine has."""
    file = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MEMINFO", file)
    everything = memory._free_bytes(torch.device("cpu"))
    file.write_text("MemTotal:       65000000 kB\nMemAvailable:   1000 kB\n")
    assert memory._free_bytes(torch.device("cpu")) == 1024_000
    assert everything > 1024_000


def test_a_container_has_less_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = memory._free_bytes(torch.device("cpu"))
    monkeypatch.setattr(memory, "_CONTAINER", ((tmp_path, "limit", "used"),))
    (tmp_path / "used").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\ninactive_file 900\nactive_file 600\n")
    for limit, left in (("1024000", 1022_500), ("2000", 500), ("1000", 0)):
        (tmp_path / "limit").write_text(f"{limit}\n")
        assert memory._free_bytes(torch.device("cpu")) == left
    (tmp_path / "limit").write_text("max\n")
    assert memory._free_bytes(torch.device("cpu")) == pytest.approx(free, rel=0.2)


def test_slots_count_for_as_long_as_they_are(dg: DiffusionGemma, device: torch.device) -> None:
    """A long request leaves long ones: neither the prefix cache nor others get their room."""
    dg.network.to(device)
    engine = Engine(dg, max_rows=2, stepper=DeviceSteps(dg.network, rows=2))
    assert engine._admission.free(engine._rows) == engine.memory.room
    engine.submit("<bos>a", raw=True, max_new_tokens=1, max_denoising_steps=1)
    list(engine.run())
    assert engine._admission.free(engine._rows) == engine.memory.room - dg.network.cache_bytes(1024)


def test_columns_in_fp8_are_widened_a_layer_at_a_time(dg: DiffusionGemma) -> None:
    """Which is more than what they are kept in; and compiled passes pack them in float32."""
    network = dg.network
    wide = network.cache_bytes(60)
    assert network.widened_bytes(60) == 0
    network.kv_cache_dtype = torch.float8_e4m3fn
    assert network.cache_bytes(60) * 4 == wide
    heads, dim = network.config.text.heads(1)
    assert network.widened_bytes(60) == 2 * 4 * 2 * heads * dim * 60
    network.compiled = "passes"  # only whether there are any counts
    assert JoinedSteps(network).held([60]) == 2 * wide


def test_a_pass_never_holds_all_layers_whole_and_trimmed(dg: DiffusionGemma) -> None:
    """What a layer wrote is let go as its window is kept."""
    cache = dg.network.new_cache(batch_size=1)
    writer = CacheWriter(cache, columns=9, mask=None)
    for index in range(2):
        heads, dim = dg.network.config.text.heads(index)
        writer.keep(index, torch.ones(1, heads, 9, dim), torch.ones(1, heads, 9, dim))
    written = [weakref.ref(keys) for keys, _ in writer._new]
    writer.close()
    # The first layer slides; the other keeps what was written.
    assert [ref() is None for ref in written] == [True, False]

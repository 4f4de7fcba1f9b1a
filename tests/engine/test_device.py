"""A step by kernels against the reference loop; without a GPU under Triton's interpreter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gesso.cache import KVCache
from gesso.engine import Engine
from gesso.engine.device import DeviceSteps
from gesso.engine.kernel_runner import KernelRunner
from gesso.engine.slots import Slots
from gesso.generation.model import DiffusionGemma
from gesso.model.quantize import SCHEMES, quantize_network
from tests.engine.schedules import L, Plan, alone, plans, together


def make_engine(dg: DiffusionGemma, device: torch.device, *, rows: int, chunk: int = 64) -> Engine:
    dg.network.to(device)
    return Engine(dg, max_rows=rows, chunk=chunk, stepper=DeviceSteps(dg.network, rows=rows))


def plan(words: list[int], *, arrives: int = 0, **keys: object) -> Plan:
    return Plan(words=words, arrives=arrives, gives_up=None, keys=keys)


def test_rows_at_different_canvases(dg: DiffusionGemma, device: torch.device) -> None:
    """Below and above the window, one of them ending early, one coming when a slot is free, with a
    shorter canvas."""
    common = dict(max_denoising_steps=2, ignore_stop_tokens=True)
    schedule = [
        plan([0, 1] * 4, max_new_tokens=2 * L, seed=1, confidence=7.0, stability=1, **common),
        plan([2], arrives=1, max_new_tokens=L + 1, seed=2**40, entropy_bound=40.0, **common),
        plan([1, 1], arrives=2, max_new_tokens=3, canvas_length=2, seed=3, **common),
    ]
    engine = make_engine(dg, device, rows=2)
    assert together(engine, schedule) == [alone(dg, one) for one in schedule]


@settings(
    max_examples=2 if not torch.cuda.is_available() else 200,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),  # what fails shrinks for an hour under the interpreter
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schedule=st.lists(plans, min_size=1, max_size=2), rows=st.integers(1, 3))
def test_every_request_gets_what_it_gets_alone(
    dg: DiffusionGemma, device: torch.device, schedule: list[Plan], rows: int
) -> None:
    engine = make_engine(dg, device, rows=rows)
    assert together(engine, schedule) == [alone(dg, one) for one in schedule]


def test_an_interruption_leaves_no_slot_taken(
    dg: DiffusionGemma, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = plan([0, 1], max_new_tokens=2, max_denoising_steps=2, ignore_stop_tokens=True)
    engine = make_engine(dg, device, rows=1)
    with monkeypatch.context() as patch:
        patch.setattr(DeviceSteps, "_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            together(engine, [one])
    assert [event.result.finish_reason for event in engine.run()] == ["cancelled"]
    assert together(engine, [one]) == [alone(dg, one)]


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_weights_in_few_bits(dg: DiffusionGemma, device: torch.device, scheme: str) -> None:
    """The readable network makes them wide first."""
    quantize_network(dg.network, SCHEMES[scheme])
    one = plan([0, 1], max_new_tokens=2, max_denoising_steps=2, ignore_stop_tokens=True)
    assert together(make_engine(dg, device, rows=1), [one]) == [alone(dg, one)]


@torch.inference_mode()
def test_a_mate_changes_no_bit(
    dg: DiffusionGemma, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16: alone a finished canvas is encoded in one pass with the next one's first step,
    and beside another row in one of its own. The modules round elsewhere: theirs are other bits."""
    monkeypatch.setattr("gesso.kernels.choice.runs_kernels", lambda x: True)
    network = dg.network.to(device, torch.bfloat16)
    quantize_network(network, SCHEMES["fp8"])
    ids = torch.arange(20, 22 + 2 * L, device=device)[None]
    prompt, finished, canvas = ids.split([2, L, L], dim=1)
    kernels = KernelRunner(network)

    def begun() -> KVCache:
        cache = network.new_cache(batch_size=1)
        network.encode(prompt, cache=cache, by=kernels)
        return cache

    apart = begun()
    network.encode(finished, cache=apart, by=kernels)
    text, columns = network.config.text, apart.length
    slots = Slots(text, rows=1, columns=columns, dtype=network.dtype, device=device)
    slots.put(0, apart)
    soft = torch.zeros(1, L, text.hidden_size, dtype=network.dtype, device=device)
    hidden = kernels.denoise_hidden(canvas, soft, slots)

    alone = begun()
    assert torch.equal(network.commit(finished, canvas, cache=alone, by=kernels)[0], hidden)
    for layer in range(text.num_layers):
        assert all(map(torch.equal, alone.layer(layer), apart.layer(layer)))
    assert not torch.equal(network.commit(finished, canvas, cache=begun())[0], hidden)


def test_keys_and_values_in_fp8(dg: DiffusionGemma, device: torch.device) -> None:
    """Widened by the kernel as they are read; past the window, over a commit."""
    dg.network.kv_cache_dtype = torch.float8_e4m3fn
    common = dict(max_denoising_steps=2, ignore_stop_tokens=True, max_new_tokens=L + 1)
    one = plan([0, 1] * 4, **common)
    assert together(make_engine(dg, device, rows=1), [one]) == [alone(dg, one)]


def test_room_grows_while_a_row_is_at_work(
    dg: DiffusionGemma, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More columns, steps and drafts than there were slots, temperatures and memory for."""
    monkeypatch.setattr("gesso.engine.device._COLUMNS", 16)
    monkeypatch.setattr("gesso.engine.device._STEPS", 2)
    monkeypatch.setattr("gesso.engine.device._MEMORY", 0)
    dg.generation = replace(dg.generation, eos_token_ids=())
    schedule = [
        plan([0], max_new_tokens=L, max_denoising_steps=2, adaptive_stop=False),
        plan([0, 1] * 8, arrives=1, max_new_tokens=1, max_denoising_steps=3, stability=2),
    ]
    engine = make_engine(dg, device, rows=2)
    assert together(engine, schedule) == [alone(dg, one) for one in schedule]


def test_slots_are_for_the_rows_at_work(
    dg: DiffusionGemma, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for all that there may be: one of many columns costs its own alone, and is forgotten when
    others need more slots. Nothing is ever larger than what was said when it was let in."""
    monkeypatch.setattr("gesso.engine.device._COLUMNS", 16)
    made: list[tuple[int, int]] = []

    class Watched(Slots):
        def __init__(self, *given: Any, rows: int, columns: int, **keys: Any) -> None:
            made.append((rows, columns))
            super().__init__(*given, rows=rows, columns=columns, **keys)

    monkeypatch.setattr("gesso.engine.device.Slots", Watched)
    short = dict(max_new_tokens=1, adaptive_stop=False)
    long = plan([0, 1] * 20, max_denoising_steps=1, **short)
    mates = [plan([place], max_denoising_steps=2, **short) for place in range(2)]
    engine = make_engine(dg, device, rows=8)
    steps = engine._stepper
    of_one = [dg.network.cache_bytes(columns) for columns in (96, 16)]
    assert steps.held([96]) == of_one[0]
    assert steps.held([8] * 3) == 4 * of_one[1]
    assert together(engine, [long]) == [alone(dg, long)]
    assert made == [(1, 96)]
    assert together(engine, mates) == [alone(dg, one) for one in mates]
    assert made == [(1, 96), (2, 16)]
    assert steps.held([8]) == 2 * of_one[1]


def test_who_stops_asking_frees_the_slots(dg: DiffusionGemma, device: torch.device) -> None:
    engine = make_engine(dg, device, rows=1)
    keys = dict(raw=True, max_new_tokens=1, max_denoising_steps=1, adaptive_stop=False)
    for _ in range(2):
        some = engine.answers(["<bos>a", "<bos>b"], **keys)
        place, _ = next(some)
        assert place == 0
        list(engine.step())  # the other takes its slot
        some.close()


@torch.inference_mode()
@pytest.mark.parametrize("scheme", [None, *sorted(SCHEMES)])
def test_prompts_are_encoded_by_kernels_too(
    dg: DiffusionGemma, device: torch.device, monkeypatch: pytest.MonkeyPatch, scheme: str | None
) -> None:
    """In two chunks, past the window, an image between them that lies within the second."""
    network = dg.network.to(device)
    if scheme is not None:
        quantize_network(network, SCHEMES[scheme])
    ids = torch.arange(20, 32, device=device)[None]
    ids[:, 8:11] = network.config.image_token_id
    soft = torch.ones(3, network.config.text.hidden_size, device=device)

    def encoded(kernels: bool) -> list[torch.Tensor]:
        monkeypatch.setattr("gesso.kernels.choice.runs_kernels", lambda x: kernels)
        cache, by = network.new_cache(batch_size=1), KernelRunner(network) if kernels else None
        network.encode(ids[:, :5], cache=cache, by=by)
        hidden = network.encode(ids[:, 5:], cache=cache, images=soft, by=by)
        return [hidden, *(t for i in range(len(network.layers)) for t in cache.layer(i))]

    for ours, plain in zip(encoded(True), encoded(False), strict=True):
        # Two orders of the same float32 sums, through both layers.
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("columns", [3, 12])
def test_a_commit_looks_by_kernels_too(
    dg: DiffusionGemma, device: torch.device, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Below and above the window; against an encoding and a look of their own."""
    network = dg.network.to(device)
    ids = torch.arange(20, 30 + columns, device=device)[None]
    prompt, finished, canvas = ids.split([columns, L, 5], dim=1)

    def committed(kernels: bool) -> list[torch.Tensor]:
        cache = network.new_cache(batch_size=1)
        network.encode(prompt, cache=cache)
        monkeypatch.setattr("gesso.kernels.choice.runs_kernels", lambda x: kernels)
        by = KernelRunner(network) if kernels else None
        hidden = network.commit(finished, canvas, cache=cache, by=by)
        monkeypatch.undo()
        return [hidden, *(t for i in range(len(network.layers)) for t in cache.layer(i))]

    cache = network.new_cache(batch_size=1)
    network.encode(prompt, cache=cache)
    network.encode(finished, cache=cache)
    apart = [network.denoise_hidden(canvas, cache=cache)]
    apart += [t for i in range(len(network.layers)) for t in cache.layer(i)]
    for ours in (committed(True), committed(False)):
        for one, other in zip(ours, apart, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

"""The reference's recorded generations, replayed token for token through the loop's randomness.

The draws of transformers' own run (initial noise, sampled tokens, renoise) are fed in; every
intermediate argmax canvas and the returned sequences must be the recorded ones.
"""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gesso.checkpoint import load_network, read_generation_config
from gesso.generation.events import Commit, Draft, End
from gesso.generation.loop import generate_events
from gesso.generation.request import Parameters, make_request
from gesso.model.compiled import CompiledPasses
from gesso.processor import Processor
from tests.compiler import needs_compiler

FOLDER = Path(__file__).parent.parent / "fixtures" / "reference"
TINY = Path(str(resources.files("gesso") / "assets" / "tiny"))
CASES = ("gen1", "gen2", "gen2_conf", "gen2_maxsteps", "gen2_eos")


@pytest.fixture(scope="module", params=[None, pytest.param(CompiledPasses, marks=needs_compiler)])
def network(request):
    network = load_network(FOLDER, dtype=torch.float32).eval()
    network.compiled = request.param and request.param(network)
    return network


@pytest.fixture(scope="module")
def recording():
    return load_file(FOLDER / "reference.safetensors")


@pytest.fixture(scope="module")
def processor():
    """Any tokenizer serves: the traces are token ids."""
    return Processor.load(TINY)


class RecordedDraws:
    """The reference's draws, by canvas and step. Rows that it kept running are simply not read."""

    def __init__(self, initial, samples, noise, rows):
        self.tensors, self.rows = (initial, samples, noise), rows

    def initial(self, canvas):
        return self.tensors[0][canvas][self.rows]

    def sample(self, probabilities, *, canvas, step):
        return self.tensors[1][canvas][step][self.rows]

    def renoise(self, *, canvas, step):
        return self.tensors[2][canvas][step][self.rows]

    def select(self, rows):
        return RecordedDraws(*self.tensors, self.rows[rows])


def steps_per_canvas(drafts, blocks):
    """A canvas ends with the last of the drafts in a row that equal its returned block."""
    counts, at = [], 0
    for block in blocks:
        start = at
        while not torch.equal(drafts[at], block):
            at += 1
        while at < len(drafts) and torch.equal(drafts[at], block):
            at += 1
        counts.append(at - start)
    assert at == len(drafts)
    return counts


def recorded(recording, case, canvas_length):
    """Draws, drafts by canvas, and the returned blocks of a case."""
    get = {k.split("/")[1]: v for k, v in recording.items() if k.startswith(case + "/")}
    drafts, width = get["argmax_drafts"], get["input_ids"].shape[1]
    blocks = get["sequences"][:, width:].unfold(1, canvas_length, canvas_length)  # (B, n, L)
    # The last row never ends early in any case: its blocks show where canvases end.
    counts = steps_per_canvas(drafts[:, -1], blocks[-1])
    initial, noise, at = [], [], 0
    for count in counts:
        initial.append(get["randint"][at])
        noise.append(get["randint"][at + 1 : at + 1 + count])
        at += 1 + count
    samples = get["multinomial"].split(counts)
    draws = RecordedDraws(initial, samples, noise, torch.arange(len(drafts[0])))
    return get, draws, drafts.split(counts), blocks


@pytest.mark.parametrize("case", CASES)
def test_trace(case, network, processor, recording):
    length = network.config.canvas_length
    get, draws, drafts, blocks = recorded(recording, case, length)
    meta = json.loads((FOLDER / "reference.json").read_text())["cases"][case]
    defaults = replace(
        read_generation_config(FOLDER), eos_token_ids=tuple(meta.get("eos_token_id", ()))
    )
    parameters = Parameters(
        # The reference returns whole canvases, whatever was asked.
        max_new_tokens=blocks.shape[1] * length,
        max_denoising_steps=meta["max_denoising_steps"],
        entropy_bound=meta["sampler_config"],
        temperature_start=meta["t_max"],
        temperature_end=meta["t_min"],
        stability=meta["stability_threshold"],
        confidence=meta["confidence_threshold"],
    )
    requests = [
        make_request(ids[mask.bool()].tolist(), parameters, model=network.config, defaults=defaults)
        for ids, mask in zip(get["input_ids"], get["attention_mask"], strict=True)
    ]
    seen = 0
    for event in generate_events(network, processor, requests, draws=draws):
        if isinstance(event, Draft):
            assert torch.equal(event.tokens, drafts[event.canvas][event.step][event.row])
            seen += 1
        elif isinstance(event, Commit):
            block = blocks[event.row][event.canvas].tolist()
            assert list(event.token_ids) == block[: len(event.token_ids)]
            assert not any(block[len(event.token_ids) :]), "the reference pads behind the end"
        elif isinstance(event, End):
            expected = float(get["tokens_per_forward"][event.row])
            # The reference does not count pad ids that the model itself wrote.
            tokens = sum(1 for token in event.result.token_ids if token != 0)
            assert tokens / event.result.stats.forwards == pytest.approx(expected, rel=1e-6)
    assert seen >= len(get["argmax_drafts"])


def test_a_wrong_draw_changes_the_trace(network, processor, recording):
    """The replay would notice: other noise gives other drafts."""
    _, draws, drafts, _ = recorded(recording, "gen1", network.config.canvas_length)
    initial = [tokens + 1 for tokens in draws.tensors[0]]
    draws = RecordedDraws(initial, *draws.tensors[1:], draws.rows)
    request = make_request(
        recording["gen1/input_ids"][0].tolist(),
        Parameters(max_new_tokens=6),
        model=network.config,
        defaults=read_generation_config(FOLDER),
    )
    first = next(iter(generate_events(network, processor, [request], draws=draws)))
    assert not torch.equal(first.tokens, drafts[0][0][0])

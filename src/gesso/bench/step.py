"""One denoising step: its time beside the floor, and where the time goes.

The floor is the time in which the step's weights and cached columns can be read once, at the
bandwidth that a large copy reaches here and now. Random weights will do: nothing about a step's
work hangs on them but which experts are asked; how many were is reported, and they alone count.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from gesso.bench.peer_steps import PeerSteps
from gesso.bench.request import random_request
from gesso.bench.subject import Subject, model_of
from gesso.bench.work import Work
from gesso.cache import KVCache
from gesso.diffusion.draws import SeededDraws
from gesso.engine import Engine
from gesso.engine.choice import make_stepper
from gesso.engine.pace import wait_for
from gesso.engine.prefix import Prefix
from gesso.engine.row import Row
from gesso.engine.stepper import Stepper
from gesso.environment import environment
from gesso.generation.answer import Answer
from gesso.generation.events import End
from gesso.generation.model import DiffusionGemma
from gesso.model.moe import Experts, Router
from gesso.model.network import Network
from gesso.model.quantize import stored_bytes
from gesso.quant import QuantExperts

_EXPERTS = (Experts, QuantExperts)
# Names of a breakdown; what is below them is one entry.
_NAMED = 12


def bench_step(
    subject: Subject,
    work: Work,
    *,
    peer: str | None = None,
    threads: int | None = None,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: "ms_per_step", "floor_ms" and "breakdown".

    tokens_per_second is of steps and commits alone, tokens_per_second_engine of the same answers
    from `Engine`, with all that it does around them. peer: "transformers" or None; what it took is
    in "peers", and why it failed in "notes".
    """
    if threads is not None:
        torch.set_num_threads(threads)
    network = subject.build()
    peers = None if peer is None else PeerSteps(peer, subject, network, work)
    return measure_step(subject, network, work, peers=peers, on_round=on_round)


@torch.inference_mode()
def measure_step(
    subject: Subject,
    network: Network,
    work: Work,
    *,
    peers: PeerSteps | None = None,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`bench_step` of a network that is there."""
    model = model_of(network)
    stepper = make_stepper(network, work.rows)
    at_work = [_row(model, number, work) for number in range(work.rows)]
    prompts = [row.cache for row in at_work]
    joins = work.rows == 1 and work.steps > 1 and network.compiled is None  # as the engine does
    passes: list[_Pass] = []
    joined: list[_Pass] = []
    engine = Engine(model, max_rows=work.rows, stepper=stepper)
    by_engine: list[float] = []
    for done in range(work.rounds + 1):
        for found, join in [(passes, False), (joined, True)][: 1 + joins]:
            one = _answer(network, stepper, at_work, prompts, work, join=join)
            if done:  # the first compiles and records
                found.append(one)
        seconds = _through(engine, stepper, at_work, prompts)
        if done:
            by_engine.append(seconds)
        if peers is not None:
            peers.turn([row.request.prompt_ids for row in at_work], counts=done > 0)
        on_round(done, work.rounds)
    median = statistics.median(found.step for found in passes)
    touched = _experts_touched(network, at_work)
    floor = _floor(network, work.rows, work.context, touched)
    tokens = work.rows * work.canvases * network.config.canvas_length
    whole = joined or passes
    for row in at_work:
        stepper.begin(row)
    return {
        "bench": "step",
        **subject.about(network),
        **asdict(work),
        "tokens_per_second": tokens / statistics.median(found.seconds for found in whole),
        "tokens_per_second_all": [tokens / found.seconds for found in whole],
        "commits_joined": joins,
        "tokens_per_second_apart": tokens / statistics.median(found.seconds for found in passes),
        "tokens_per_second_engine": tokens / statistics.median(by_engine),
        "tokens_per_second_engine_all": [tokens / seconds for seconds in by_engine],
        "ms_per_step": median * 1e3,
        "ms_per_step_all": [found.step * 1e3 for found in passes],
        "ms_per_commit": statistics.median(found.commit for found in whole) * 1e3,
        "ms_per_commit_apart": statistics.median(found.commit for found in passes) * 1e3,
        **floor,
        "over_floor": median * 1e3 / floor["floor_ms"],
        "experts_touched": touched,
        "breakdown": _breakdown(network, stepper, at_work),
        **({} if peers is None else peers.report()),
        "environment": environment(),
    }


@torch.inference_mode()
def _row(model: DiffusionGemma, number: int, work: Work) -> Row:
    """A random request, its prompt encoded."""
    network = model.network
    length = network.config.canvas_length
    request = random_request(
        model, number, context=work.context, steps=work.steps, canvases=work.canvases
    )
    cache = network.new_cache(batch_size=1)
    for chunk in torch.tensor(request.prompt_ids, device=network.device).split(1024):
        network.encode(chunk[None], cache=cache)
    return Row(
        number=number,
        request=request,
        answer=Answer(number, request, model.processor, time.perf_counter()),
        columns=work.context + work.canvases * length,
        policy=request.policy,
        cache=cache,
        draws=SeededDraws(
            [number],
            length=length,
            vocab_size=network.config.text.vocab_size,
            device=network.device,
        ),
    )


class _Pass(NamedTuple):
    """Seconds: of a whole answer, of a step, of all rows' commits of one canvas, first steps that
    are joined with them included."""

    seconds: float
    step: float
    commit: float


@torch.inference_mode()
def _answer(
    network: Network,
    stepper: Stepper,
    rows: list[Row],
    prompts: list[KVCache],
    work: Work,
    *,
    join: bool,
) -> _Pass:
    """Every row's canvases, one after the other, from behind its prompt."""
    stepping = committing = 0.0
    for row, prompt in zip(rows, prompts, strict=True):
        whole = prompt.prefix(prompt.length)
        assert whole is not None
        row.cache, row.canvas = whole, 0
        stepper.begin(row)
    steps = 0
    for canvas in range(work.canvases):
        started = _now(network)
        for _ in range(work.steps - (join and canvas > 0)):
            drafts = [output.argmax for _, output in stepper.step(rows)]
            steps += 1
        stepping += _now(network) - started
        if canvas + 1 == work.canvases:
            break
        started = _now(network)
        for row, draft in zip(rows, drafts, strict=True):
            row.canvas += 1
            if join:
                drafts = [stepper.commit(row, draft).argmax]
            else:
                stepper.encode(draft, row.cache)
                stepper.begin(row)
        committing += _now(network) - started
    commits = max(1, work.canvases - 1)
    return _Pass(stepping + committing, stepping / steps, committing / commits)


def _through(engine: Engine, stepper: Stepper, rows: list[Row], prompts: list[KVCache]) -> float:
    """Seconds of the same answers from the engine, which also lets in, tells of every draft, reads
    the text and keeps columns; it is given those of the prompts."""
    stepper.clear()
    engine.prefixes.shrink(0)
    for row, prompt in zip(rows, prompts, strict=True):
        known = Prefix()
        known.extend(row.request.prompt_ids, prompt, mark=True)
        engine.prefixes.keep(known)
    started = time.perf_counter()
    for row in rows:
        engine.submit_request(row.request)
    ended = sum(isinstance(event, End) for event in engine.run())
    assert ended == len(rows)
    return time.perf_counter() - started


def _now(network: Network) -> float:
    """The time when all that was asked of the device is done."""
    wait_for(network.device)
    return time.perf_counter()


def _floor(network: Network, rows: int, context: int, touched: float) -> dict[str, float]:
    """bytes: what a step cannot help but read, of the experts the touched ones and the head's
    weights once more for the soft embedding. floor_ms: at the bandwidth of a large copy."""
    vision = [part for part in (network.vision, network.projector) if part is not None]
    weights = stored_bytes(network) - sum(map(stored_bytes, vision))
    weights += stored_bytes(network.embed)
    experts = sum(stored_bytes(m) for m in network.modules() if isinstance(m, _EXPERTS))
    weights -= round(experts * (1 - touched / network.config.text.num_experts))
    read = weights + rows * network.cache_bytes(context)
    bandwidth = _copy_bandwidth(network.device)
    return dict(bytes=read, bytes_per_second=bandwidth, floor_ms=read / bandwidth * 1e3)


def _copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second, the best of some rounds of copies far larger than any cache;
    several a round, so that waiting for them does not count."""
    size, copies = (2**31, 16) if device.type == "cuda" else (2**28, 1)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(8):
        wait_for(device)
        started = time.perf_counter()
        for _ in range(copies):
            target.copy_(source)
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size * copies / best


@torch.inference_mode()
def _experts_touched(network: Network, rows: list[Row]) -> float:
    """Of a layer's experts, how many the rows' canvases ask between them; the mean over the
    layers."""
    asked: dict[nn.Module, set[int]] = defaultdict(set)

    def note(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        asked[module].update(output[0].unique().tolist())

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, Router)]
    for row in rows:
        network.denoise_hidden(row.draws.initial(0), cache=row.cache)
    for hook in hooks:
        hook.remove()
    return statistics.mean(map(len, asked.values()))


@torch.inference_mode()
def _breakdown(network: Network, stepper: Stepper, rows: list[Row]) -> dict[str, float]:
    """Milliseconds of a step by kernel on a GPU, by operator on a CPU; the largest first."""
    gpu = network.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        list(stepper.step(rows))
        wait_for(network.device)
    spent = {
        event.key: (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e3
        for event in found.key_averages()
    }
    ordered = sorted(spent.items(), key=lambda entry: -entry[1])
    rest = sum(ms for _, ms in ordered[_NAMED:])
    return dict([*ordered[:_NAMED], ("others", rest)])

"""What a run will take, before it takes it: counted on the network itself, without its weights.

The step runs on torch's meta device, where tensors have shapes and no values: what autograd would
keep, and the arithmetic of every product, are then read off rather than guessed. Attention counts
as the operator that keeps its weights; a fused one keeps less.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gesso.checkpoint import resolve
from gesso.environment import pick_device
from gesso.kernels.cross_entropy import cross_entropy
from gesso.model.network import Network, parameter_count
from gesso.model.quantize import stored_bytes
from gesso.processor import Processor
from gesso.training.config import ObjectiveConfig, TrainConfig
from gesso.training.data import CHUNK_BATCHES
from gesso.training.mixture import mix
from gesso.training.start import shape_of, skeleton, working_dtype
from gesso.training.weights import names_by_muon

# The length of a prompt, in tokens, where the tokenizer cannot be had.
_UNKNOWN_PROMPT = 256
# Logits of an unscored pass, their tempered copy, log-probabilities and probabilities.
_LOGITS = 4


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Of a batch: prompt tokens, and canvases of the answer, of its mean row; and the tokens of a
    row of the widest one, padding among them."""

    count: int
    prompt: int
    canvases: int
    widest: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """parameters and trained: elements. memory: bytes on each process, by what holds them.
    flops: of a step, over all processes, a multiplication and an addition counted apart."""

    parameters: int
    trained: int
    memory: dict[str, int]
    flops: int


def rows_of(config: TrainConfig, processor: Processor) -> Rows:
    """Those of the first chunk: rows are sorted by length within one, so it has batches of all
    widths."""
    data = mix(config, processor, shape_of(config)).batches
    batches = [data.batch(step) for step in range(CHUNK_BATCHES)]
    count = sum(len(batch.ids) for batch in batches)
    prompt, canvases = (
        -(-int(sum(lengths.sum() for lengths in column)) // count)
        for column in ([b.prompt_length for b in batches], [b.canvases for b in batches])
    )
    widest = max(batch.ids.shape[1] for batch in batches)
    return Rows(count=config.batch_size, prompt=prompt, canvases=canvases, widest=widest)


def plan(config: TrainConfig, rows: Rows, *, processes: int = 1) -> Plan:
    """Without the weights: the arithmetic of the mean rows, the memory of the widest batch."""
    dtype = working_dtype(config)
    with torch.device("meta"):
        parameters = parameter_count(Network(shape_of(config)))
    network = skeleton(config)
    network.checkpoint_activations = config.checkpoint_activations
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    part = -(-rows.count // (processes * config.accumulate))
    length = network.config.canvas_length
    mean = rows.prompt + rows.canvases * length
    step, largest = (
        _run(network, config.objective, count=part, width=width) for width in (mean, rows.widest)
    )
    parts = rows.count / part
    elements, width = sum(p.numel() for p in trained.values()), dtype.itemsize
    # AdamW has two moments of a parameter, Muon one.
    alone = sum(trained[name].numel() for name in names_by_muon(trained, config.optimizer))
    canvas = length * network.config.text.vocab_size
    looks = bool(config.objective.draws and config.objective.self_conditioning)
    memory = {
        "weights": stored_bytes(network) // processes,
        # The layer at work, the one fetched ahead, and what lies outside of layers.
        "weights fetched": _fetched(network, width) if processes > 1 else 0,
        "gradients": elements * (width + 4) // processes,
        "masters, average, moments": 4 * (4 * elements - alone) // processes,
        "activations": largest.kept,
        "one layer again": largest.layer if config.checkpoint_activations else 0,
        "logits": looks * _LOGITS * 4 * part * canvas,
    }
    # What is not taken of the candidates has been encoded too.
    chosen = int(step.encoding * parts) * config.candidates if config.candidates > 1 else 0
    return Plan(
        parameters=parameters,
        trained=elements,
        memory=memory,
        flops=int(step.flops * parts) + chosen,
    )


def report(config: TrainConfig) -> dict[str, Any]:
    """Plans for one process and for eight, and the least time here; serialises to JSON."""
    assumed = None
    try:
        folder = resolve(config.processor, weights=False)
    except ValueError as error:
        widest = _UNKNOWN_PROMPT + shape_of(config).canvas_length
        rows = Rows(count=config.batch_size, prompt=_UNKNOWN_PROMPT, canvases=1, widest=widest)
        assumed = str(error)
    else:
        rows = rows_of(config, Processor.load(folder))
    plans = {n: plan(config, rows, processes=n) for n in (1, 8) if rows.count >= n}
    one = plans[1]
    device = pick_device(config.device)
    rate = _product_rate(device, working_dtype(config))
    return dict(
        parameters=one.parameters,
        trained=one.trained,
        steps=config.steps,
        rows=vars(rows),
        rows_assumed=assumed,
        canvas_length=shape_of(config).canvas_length,
        flops_per_step=one.flops,
        memory={
            n: found.memory | {"in all": sum(found.memory.values())} for n, found in plans.items()
        },
        device=str(device),
        product_flops_per_second=rate,
        least_seconds_per_step=one.flops / rate,
    )


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """What a large matrix product reaches on a device, in operations a second."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        float((a @ b)[0, 0])  # read, so that the device is done
        best = min(best, time.perf_counter() - started)
        if best > 1:  # a CPU without instructions for bfloat16: once is enough to wait for
            break
    return 2 * size**3 / best


@dataclass(frozen=True, kw_only=True)
class _Step:
    kept: int
    layer: int
    flops: int
    encoding: int


def _run(network: Network, objective: ObjectiveConfig, *, count: int, width: int) -> _Step:
    """A step's passes over rows of so many tokens, forward and back."""
    length = network.config.canvas_length
    ids = torch.zeros(count, width, dtype=torch.int64)
    canvas = torch.zeros(count, length, dtype=torch.int64)
    ids, canvas = ids.to("meta"), canvas.to("meta")
    starts = torch.zeros(count, dtype=torch.int64, device="meta")
    positions = starts[:, None] + torch.arange(length, device="meta")
    again = network.checkpoint_activations
    saved = _Saved(network)
    with _flops() as counter, torch.no_grad():
        network.encode(ids, cache=network.new_cache(batch_size=count, trim=False))
        encoding = counter.get_total_flops()
    with _flops() as counter:
        with saved:
            cache = network.new_cache(batch_size=count, trim=False)
            hidden = network.encode(ids, cache=cache)
            loss = objective.causal_weight * _scored(network, hidden)
            for _ in range(objective.draws):
                hidden = network.denoise_hidden(
                    canvas, cache=cache, starts=starts, positions=positions
                )
                loss = loss + _scored(network, hidden)
        kept = saved.bytes
        loss.backward()
        trained = counter.get_total_flops()
    with _flops() as counter, torch.no_grad():
        logits = network.denoise(canvas, cache=cache, starts=starts, positions=positions)
        network.soft_embed(logits)
    looks = 1 + objective.unroll * (objective.unroll_steps - 1) / 2
    looks *= objective.self_conditioning * objective.draws
    layer = 0
    if again:
        network.checkpoint_activations = False
        saved = _Saved(network)
        with saved:
            network.encode(ids, cache=network.new_cache(batch_size=count, trim=False))
        layer = saved.bytes // network.config.text.num_layers
        network.checkpoint_activations = True
    flops = trained + int(looks * counter.get_total_flops())
    return _Step(kept=kept, layer=layer, flops=flops, encoding=encoding)


def _scored(network: Network, hidden: Tensor) -> Tensor:
    flat = hidden.flatten(0, 1)
    target = torch.zeros(len(flat), dtype=torch.int64, device="meta")
    weight = torch.ones(len(flat), device="meta")
    cap = network.config.text.final_logit_softcapping
    return cross_entropy(flat, network.embed.weight, target, weight, cap)[0]


def _fetched(network: Network, width: int) -> int:
    layers = [sum(p.numel() for p in layer.parameters()) for layer in network.layers]
    rest = sum(p.numel() for p in network.parameters()) - sum(layers)
    return width * (2 * max(layers) + rest)


class _Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps, the weights' own not among them."""

    def __init__(self, network: Network) -> None:
        known = {_storage(p) for p in network.parameters()}
        self.bytes = 0
        # Held, so that no later tensor is taken for one of these.
        self._kept: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            if (key := _storage(tensor)) not in known:
                known.add(key)
                self._kept.append(tensor)
                self.bytes += tensor.untyped_storage().nbytes()
            return tensor

        super().__init__(pack, lambda tensor: tensor)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _flops() -> FlopCounterMode:
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_flops}
    )


def _grouped_flops(a: Any, b: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Rows by group times one matrix each; or, for the weights' gradient, (M, N) by (N, K)."""
    rows, inner = a[-2], a[-1]
    return int(2 * rows * inner * b[-1])

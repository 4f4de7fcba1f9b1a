"""Long prompts, encoded in chunks: time, memory, and whether chunks change what is written.

Memory must grow with the prompt and not with its square, so a prompt is encoded as the engine does
it. Where a prompt may also be encoded whole, the first canvas behind it is compared: the draft
after one step, token by token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gesso.bench.subject import Subject
from gesso.cache import KVCache
from gesso.engine.choice import make_stepper
from gesso.engine.pace import wait_for
from gesso.environment import environment
from gesso.model.network import Network


def bench_prefill(
    subject: Subject,
    *,
    tokens: Sequence[int],
    chunk: int = 1024,
    whole: int = 8192,
    rounds: int = 1,
    threads: int | None = None,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: "prompts", one entry for each number of tokens.

    chunk: tokens encoded at a time. whole: up to how many tokens a prompt is encoded in one piece
    too, to compare; "same_draft" is None beyond. The best of `rounds` counts. peak_bytes: on a GPU,
    of everything. ValueError for a number below 1, or a prompt past the context.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    for name, value in dict(tokens=min(tokens), chunk=chunk, rounds=rounds).items():
        if value < 1:
            raise ValueError(f"{name}: got {value}; expected at least 1")
    network = subject.build()
    context = network.config.text.max_position_embeddings
    if max(tokens) > context:
        raise ValueError(f"tokens: got {max(tokens)}; the context of the model is {context}")
    prompts = []
    for done, count in enumerate(sorted(tokens), 1):
        prompts.append(_measure(network, count, chunk, whole, rounds))
        on_round(done, len(tokens))
    return {
        "bench": "prefill",
        **subject.about(network),
        "chunk": chunk,
        "prompts": prompts,
        "environment": environment(),
    }


@torch.inference_mode()
def _measure(network: Network, count: int, chunk: int, whole: int, rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(network.config.text.vocab_size, (1, count), generator=generator)
    ids = ids.to(network.device)
    gpu = network.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(network.device)
    seconds = float("inf")
    for _ in range(rounds):
        cache = None  # the last round's would count in the peak
        wait_for(network.device)
        started = time.perf_counter()
        cache = _encode(network, ids, chunk)
        wait_for(network.device)
        seconds = min(seconds, time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(network.device) if gpu else None
    assert cache is not None
    same = None
    if count <= whole:
        drafts = [_draft(network, one) for one in (cache, _encode(network, ids, count))]
        same = torch.equal(*drafts)
    return {
        "tokens": count,
        "seconds": seconds,
        "tokens_per_second": count / seconds,
        "cache_bytes": cache.nbytes,
        "peak_bytes": peak,
        "same_draft": same,
    }


def _encode(network: Network, ids: Tensor, chunk: int) -> KVCache:
    cache = network.new_cache(batch_size=1)
    stepper = make_stepper(network, 1)  # as the engine does
    for piece in ids.split(chunk, dim=1):
        stepper.encode(piece, cache)
    return cache


def _draft(network: Network, cache: KVCache) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (1, network.config.canvas_length)
    canvas = torch.randint(network.config.text.vocab_size, size, generator=generator)
    return network.denoise(canvas.to(network.device), cache=cache).argmax(-1)

"""Wall-clock generation speed of gesso and of transformers on one checkpoint.

Same prompts, same steps, same threads; the adaptive stop is off and stop tokens are ignored, so
every contender does the same number of forwards. The contenders take turns within each round:
what disturbs the machine disturbs all of them, and a ratio is of medians over the rounds.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gesso.bench.contender import Contender, Gesso, first_line, peer_module
from gesso.checkpoint import resolve
from gesso.environment import environment, fast_dtype
from gesso.generation.model import DiffusionGemma
from gesso.kernels.cpu.library import products_of
from gesso.tasks import get_task

_PROMPTS = 6


def bench_generate(
    source: str,
    *,
    peer: str | None = None,
    steps: int = 16,
    rounds: int = 5,
    threads: int | None = None,
    canvases: int = 2,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """A report that serialises to JSON: "contenders" with tokens per second, and "ratios".

    peer: "transformers" or None. rounds: how often each contender runs over all prompts, after one
    run that is not counted. ValueError for an unknown peer, or one that is not installed.
    """
    for name, value in (("steps", steps), ("rounds", rounds), ("canvases", canvases)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; expected at least 1")
    if threads is not None:
        torch.set_num_threads(threads)
    folder = resolve(source)
    notes: list[str] = []
    dtypes = _dtypes(notes)
    ours = [Gesso(source, dtype) for dtype in dtypes]
    try:
        ours += [Gesso(source, dtype, compile=True) for dtype in dtypes if _has_products(dtype)]
    except ValueError as error:
        notes.append(f"gesso (compiled) left out: {error}")
    first, contenders = ours[0], list[Contender](ours)
    if peer is not None:
        contenders += peer_module(peer).transformers_contenders(folder, dtypes)
    length = first.model.network.config.canvas_length
    prompts = _prompts(first.model)
    work = {"steps": steps, "new_tokens": canvases * length}
    seconds = _in_turns(contenders, prompts, work, rounds, notes, on_round)
    tokens = len(prompts) * canvases * length
    forwards = len(prompts) * canvases * steps
    rows = [_row(contender, times, tokens, forwards) for contender, times in seconds.items()]
    return {
        "bench": "generate",
        "model": str(source),
        "prompts": len(prompts),
        "prompt_tokens": [len(p) for p in prompts],
        "new_tokens": canvases * length,
        "steps": steps,
        "rounds": rounds,
        "contenders": rows,
        "ratios": _ratios(rows),
        "notes": notes,
        "environment": environment(),
    }


def _dtypes(notes: list[str]) -> list[str]:
    if fast_dtype(torch.device("cpu")) == torch.bfloat16:
        return ["float32", "bfloat16"]
    notes.append("bfloat16 left out: this CPU has no products for it, and takes far longer")
    return ["float32"]


def _has_products(dtype: str) -> bool:
    """Whether passes in C++ have any in this dtype. ValueError: there are no such passes."""
    wanted: torch.dtype = getattr(torch, dtype)
    return products_of(wanted) == wanted


def _in_turns(
    contenders: Sequence[Contender],
    prompts: Sequence[list[int]],
    work: Mapping[str, int],
    rounds: int,
    notes: list[str],
    on_round: Callable[[int, int], None],
) -> dict[Contender, list[float]]:
    """Each contender's seconds, round by round; a peer that fails is noted, and left out."""
    seconds: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    for done in range(rounds + 1):
        for contender in list(seconds):
            try:
                taken = _time(contender, prompts, **work)
            except Exception as error:  # a peer's failure is a finding, not the end of the run
                if isinstance(contender, Gesso):
                    raise
                notes.append(f"{contender.name} {contender.dtype} failed: {first_line(error)}")
                del seconds[contender]
                continue
            if done:
                seconds[contender].append(taken)
        on_round(done, rounds)
    return seconds


def _time(contender: Contender, prompts: Sequence[list[int]], **work: int) -> float:
    started = time.perf_counter()
    for prompt in prompts:
        written = contender.generate(prompt, **work)
        assert written == work["new_tokens"], f"{contender.name} wrote {written} tokens"
    return time.perf_counter() - started


def _prompts(model: DiffusionGemma) -> list[list[int]]:
    examples = itertools.islice(get_task("extract").examples(split="names", seed=0), _PROMPTS)
    return [model.processor.encode_prompt(example.prompt) for example in examples]


def _row(
    contender: Contender, times: Sequence[float], tokens: int, forwards: int
) -> dict[str, Any]:
    median = statistics.median(times)
    return {
        "name": contender.name,
        "dtype": contender.dtype,
        "seconds_all": list(times),
        "tokens_per_second_median": tokens / median,
        "tokens_per_second_all": [tokens / t for t in times],
        "ms_per_forward_median": median / forwards * 1e3,
    }


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """gesso over its peers: best against best, and dtype by dtype against the peer's best."""

    def best(ours: bool, dtype: str | None = None) -> float | None:
        speeds = [
            row["tokens_per_second_median"]
            for row in rows
            if row["name"].startswith("gesso") == ours and dtype in (None, row["dtype"])
        ]
        return max(speeds, default=None)

    ratios: dict[str, float] = {}
    for name, dtype in (("best", None), ("float32", "float32"), ("bfloat16", "bfloat16")):
        ours, theirs = best(True, dtype), best(False, dtype)
        if ours and theirs:
            ratios[name] = ours / theirs
    return ratios

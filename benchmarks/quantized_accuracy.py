"""What a checkpoint's answers lose in few bits: exact answers to a task, format by format.

    python benchmarks/quantized_accuracy.py extract --json benchmarks/results/cpu-accuracy.json

All formats answer the same examples with the same seeds, so what counts is the examples that a
format answers otherwise than the wide weights: `gained` and `lost` ones, of n. `points` is the
difference in percent, `error` its standard error (that of a sum of gained and lost signs). Passes
are compiled (`load(compile=True)`), which makes the stored weights wide once. With --calibrate N
they are rounded by what the layers read of N prompts of training's (`gesso convert --calibrate`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gesso.cli import main as gesso
from gesso.engine import Engine
from gesso.environment import environment
from gesso.generation.model import DiffusionGemma, load
from gesso.model.quantize import SCHEMES
from gesso.tasks import get_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--n", type=int, default=500, help="examples a split")
    parser.add_argument("--rows", type=int, default=16, help="canvases denoised together")
    parser.add_argument("--split", action="append", help="repeatable; by default all but train")
    parser.add_argument("--format", action="append", choices=SCHEMES, help="repeatable")
    parser.add_argument("--calibrate", type=int, metavar="N", help="by so many prompts")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    task = get_task(args.task)
    splits = args.split or [name for name in task.splits if name != "train"]
    wide: dict[str, list[bool]] = {}
    runs: list[dict[str, Any]] = []
    for name in ("wide", *(args.format or SCHEMES)):
        quantize = None if name == "wide" else name
        model = rounded(args.model, quantize, task=args.task, prompts=args.calibrate, compile=True)
        for split in splits:
            examples = list(itertools.islice(task.examples(split=split, seed=0), args.n))
            started, hits = time.perf_counter(), [False] * len(examples)
            prompts = [example.prompt for example in examples]
            for place, result in Engine(model, max_rows=args.rows).answers(prompts, verify=False):
                hits[place] = task.verdict(examples[place], result.text)["exact"] == 1
            run = {"format": name, "split": split, "n": len(hits), "exact": sum(hits) / len(hits)}
            if name == "wide":
                wide[split] = hits
            run |= compare(wide[split], hits) | {"seconds": time.perf_counter() - started}
            runs.append(run)
            print(
                f"{name}, {split}: {run['exact']:.1%} exact, {run['points']:+.2f} points "
                f"(standard error {run['error']:.2f}; {run['gained']} gained, {run['lost']} lost)",
                flush=True,
            )
            if args.json:
                found = {
                    name: getattr(args, name) for name in ("task", "model", "rows", "calibrate")
                }
                found["runs"] = runs
                text = json.dumps(found | {"environment": environment()}, indent=1)
                args.json.write_text(text + "\n", encoding="utf-8")


def rounded(
    source: str, quantize: str | None, *, task: str, prompts: int | None, compile: bool = False
) -> DiffusionGemma:
    """In float32; calibrated with so many prompts of a task, or rounded to nearest."""
    if quantize is None or prompts is None:
        return load(source, dtype="float32", quantize=quantize, compile=compile)
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/{quantize}"
        words = ["--quantize", quantize, "--calibrate", task, "--prompts", str(prompts)]
        if gesso(["convert", source, "--out", out, *words]):
            raise SystemExit(1)
        return load(out, dtype="float32", compile=compile)


def compare(wide: list[bool], hits: list[bool]) -> dict[str, float]:
    """The same examples answered twice."""
    gained = sum(b and not a for a, b in zip(wide, hits, strict=True))
    lost = sum(a and not b for a, b in zip(wide, hits, strict=True))
    share = 100 / len(hits)
    return {
        "gained": gained,
        "lost": lost,
        "points": share * (gained - lost),
        "error": share * math.sqrt(gained + lost),
    }


if __name__ == "__main__":
    main()

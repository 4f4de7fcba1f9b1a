"""What a checkpoint's answers lose in few bits: exact answers to a task, format by format.

    python benchmarks/quantized_accuracy.py extract --json benchmarks/results/cpu-accuracy.json

Passes are compiled (`load(compile=True)`), which makes the stored weights wide once. All formats
answer the same examples with the same seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from gesso.environment import environment
from gesso.evaluation import evaluate
from gesso.generation.model import load
from gesso.model.quantize import SCHEMES
from gesso.tasks import get_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--n", type=int, default=500, help="examples a split")
    parser.add_argument("--rows", type=int, default=16, help="canvases denoised together")
    parser.add_argument("--split", action="append")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    runs: list[dict[str, Any]] = []
    for name in ("wide", *SCHEMES):
        quantize = None if name == "wide" else name
        model = load(args.model, dtype="float32", quantize=quantize, compile=True)
        report = evaluate(
            model, get_task(args.task), n=args.n, rows=args.rows, splits=args.split,
            modes=["diffusion"],
        )  # fmt: skip
        for run in report["runs"]:
            runs.append({"format": name, **run})
            print(f"{name}, {run['split']}: {run['exact']:.1%} exact", flush=True)
        if args.json:
            found = {"task": args.task, "model": args.model, "runs": runs}
            text = json.dumps(found | {"environment": environment()}, indent=1)
            args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

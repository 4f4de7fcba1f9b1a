"""What each option of the objective is worth: one short run of the 4x4 Sudoku recipe for each.

    python benchmarks/objective_options.py --out runs/options [--steps 400] [--only ramp ...]

Everything but the option is the same: weights, data, noise, steps. The judge is 500 held-out
puzzles. One line of JSON an option goes to OUT/results.jsonl; a run that is there already is not
repeated. One thread each: start it twice with other options to use two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gesso.environment import environment
from gesso.evaluation import evaluate
from gesso.generation.model import load
from gesso.tasks import get_task
from gesso.training.trainer import Trainer
from recipes import sudoku4

OPTIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "no causal loss": dict(causal_weight=0.0),
    "no gradient through the cache": dict(cache_gradient=False),
    "leave-one-out head": dict(leave_one_out=True),
    "ramps for half": dict(ramp=0.5),
    "no self-conditioning": dict(self_conditioning=0.0),
}
TASK, JUDGED = "sudoku4", 500
# Losses are means over so many of the last lines of a log, twenty steps apart.
_TAIL = 5


def measure(name: str, steps: int, folder: Path) -> dict[str, Any]:
    recipe = sudoku4.recipe()
    objective = replace(recipe.objective, **OPTIONS[name])
    config = replace(
        recipe, steps=steps, objective=objective, evaluation=None, save_every=10 * steps
    )
    started = time.perf_counter()
    Trainer(config, folder).run()
    seconds = time.perf_counter() - started
    model = load(folder / "checkpoint")
    judged = evaluate(model, get_task(TASK), n=JUDGED, rows=16, modes=["diffusion"])["runs"][0]
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-_TAIL:]
    log = [json.loads(line) for line in lines]
    return {
        "option": name,
        "objective": OPTIONS[name],
        "steps": steps,
        "batch": config.batch_size,
        "seconds": seconds,
        "exact": judged["exact"],
        "cells": judged["verdicts"]["cells"],
        "steps_per_canvas": judged["steps_per_canvas"],
        "denoise": statistics.mean(line["denoise"] for line in log),
        "causal": statistics.mean(line["causal"] for line in log),
        "environment": environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.jsonl"
    done = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    known = {json.loads(line)["option"] for line in done}
    for name in args.only:
        if name in known:
            continue
        found = measure(name, args.steps, args.out / name.replace(" ", "-"))
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{name}: {found['exact']:.1%} exact, {found['steps_per_canvas']:.1f} steps")


if __name__ == "__main__":
    main()

"""What a checkpoint's predictions lose in few bits: KL(wide || format) of the denoiser's logits.

    python benchmarks/quantized_kl.py --json benchmarks/results/cpu-quantized-kl-tiny.json

In nats per position of the canvas, over held-out examples of extract, each with its answer's first
canvas corrupted at several noise levels. Every network reads the same canvas twice: without a soft
embedding, as at a canvas's first step, and with the one that the wide network made of its own first
reading. Weights alone are rounded, in "kv fp8" cached keys and values alone; all is computed in
float32. With --calibrate N weights are rounded by what the layers read of N prompts of training's.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from quantized_accuracy import rounded
from torch import Tensor

import gesso
from gesso.diffusion.noise import corrupt
from gesso.environment import environment
from gesso.generation.model import DiffusionGemma
from gesso.model.quantize import SCHEMES, stored_bytes
from gesso.tasks import get_task
from gesso.training.data import collate
from gesso.training.sources import tokenize

LEVELS = (0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--split", default="names", help="of the task extract")
    parser.add_argument("--n", type=int, default=64, help="examples, one canvas a noise level each")
    parser.add_argument("--calibrate", type=int, metavar="N", help="by so many prompts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()

    wide = gesso.load(args.model, dtype="float32")
    packed = {
        name: rounded(args.model, name, task="extract", prompts=args.calibrate) for name in SCHEMES
    }
    packed["kv fp8"] = gesso.load(args.model, dtype="float32", kv_cache_dtype="fp8")
    sums = {name: torch.zeros(2, len(LEVELS), dtype=torch.float64) for name in packed}
    examples = get_task("extract").examples(split=args.split, seed=0)
    vocabulary = wide.network.config.text.vocab_size
    generator = torch.Generator().manual_seed(0)
    for example in itertools.islice(examples, args.n):
        prompt, canvas = first_canvas(wide, example)
        read, others = reader(wide, prompt), {n: reader(m, prompt) for n, m in packed.items()}
        uniform = torch.rand(canvas.shape, generator=generator)
        noise = torch.randint(vocabulary, canvas.shape, generator=generator)
        for place, level in enumerate(LEVELS):
            noisy = corrupt(canvas, torch.tensor([level]), uniform=uniform, noise=noise)
            soft = None
            for reading in range(2):
                logits = read(noisy, soft)
                for name, other in others.items():
                    sums[name][reading, place] += divergence(logits, other(noisy, soft))
                soft = wide.network.soft_embed(logits / wide.generation.temperature_start)
    report(args, {name: total / args.n for name, total in sums.items()}, {"wide": wide, **packed})


def first_canvas(model: DiffusionGemma, example) -> tuple[Tensor, Tensor]:
    """Prompt (1, P) and the first canvas of the answer (1, L), as training lays them out."""
    row = tokenize(example, model.processor)
    length = model.network.config.canvas_length
    fill = model.processor.tokenizer.id("<eos>")
    ids = collate([row], canvas_length=length, fill_id=fill).ids
    return ids[:, : len(row.prompt)], ids[:, len(row.prompt) : len(row.prompt) + length]


def reader(model: DiffusionGemma, prompt: Tensor):
    cache = model.network.new_cache(batch_size=1)
    model.network.encode(prompt, cache=cache)
    return lambda canvas, soft: model.network.denoise(canvas, cache=cache, soft=soft)


def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """Mean over positions of KL(softmax(logits) || softmax(other)), both (1, L, V)."""
    mine, theirs = logits.double().log_softmax(-1), other.double().log_softmax(-1)
    return (mine.exp() * (mine - theirs)).sum(-1).mean()


def report(args, means, models) -> None:
    print(f"{'nats a position':17}" + "".join(f"{f'noise {t}':>12}" for t in LEVELS) + "    all")
    for name, values in means.items():
        for label, row in zip(("first step", "with soft"), values, strict=True):
            cells = "".join(f"{value:12.5f}" for value in row.tolist())
            print(f"{name:6} {label:10}{cells}{row.mean():12.5f}")
    if args.json:
        kl = {n: dict(first_step=v[0].tolist(), with_soft=v[1].tolist()) for n, v in means.items()}
        sizes = {name: stored_bytes(model.network) for name, model in models.items()}
        found = dict(unit="nats a position", levels=LEVELS, kl=kl, weight_bytes=sizes)
        whole = {**vars(args), **found, "environment": environment()}
        args.json.write_text(json.dumps(whole, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with torch.inference_mode():
        main()

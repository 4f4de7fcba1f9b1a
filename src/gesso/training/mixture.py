"""The batches that a recipe asks for: its tasks and the user's own data, by their shares."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from gesso.config import ModelConfig
from gesso.processor import Processor
from gesso.tasks import get_task
from gesso.training.config import TrainConfig
from gesso.training.data import Batches
from gesso.training.folder import read_data
from gesso.training.sources import FixedSource, Row, Source, TaskSource


class Mixture(NamedTuple):
    """The batches; how many bad lines or files of each `data` were left out; and for each of them a
    number that stands for its examples, with its share."""

    batches: Batches
    skipped: dict[str, int]
    seen: list[Any]


def mix(config: TrainConfig, processor: Processor, model: ModelConfig) -> Mixture:
    """What the recipe asks for. ValueError: a task or data that cannot be trained on."""
    shares: dict[Source, float] = {}
    for task, share in config.tasks.items():
        known = get_task(task)
        if "train" not in known.splits:
            raise ValueError(f"tasks: {task} has nothing to train on; a file is given as data")
        shares[TaskSource(known, processor)] = share
    skipped: dict[str, int] = {}
    seen: list[Any] = []
    for place, share in config.sources:
        found = read_data(
            place,
            processor,
            canvas_length=model.canvas_length,
            longest=model.text.max_position_embeddings,
            skip_bad=config.skip_bad,
        )
        name = str(place) if isinstance(place, str | Path) else type(place).__name__
        skipped[name] = skipped.get(name, 0) + found.skipped
        shares[FixedSource(found.rows)] = share
        seen.append([_digest(found.rows), share])
    batches = Batches(
        shares,
        batch_size=config.batch_size * config.candidates,
        canvas_length=model.canvas_length,
        fill_id=processor.tokenizer.id("<eos>"),
        seed=config.seed,
    )
    return Mixture(batches, skipped, seen)


def _digest(rows: Sequence[Row]) -> str:
    """The same for the same tokens, whatever file or machine they came from."""
    known = blake2b(digest_size=8)
    for row in rows:
        known.update(array("q", (len(row.prompt), *row.prompt, *row.answer)).tobytes())
    return known.hexdigest()

"""The batches that a recipe asks for: its tasks and the user's own data, by their shares."""

from __future__ import annotations

from pathlib import Path

from gesso.config import ModelConfig
from gesso.processor import Processor
from gesso.tasks import get_task
from gesso.training.config import TrainConfig
from gesso.training.data import Batches
from gesso.training.folder import read_data
from gesso.training.sources import FixedSource, Source, TaskSource


def mix(
    config: TrainConfig, processor: Processor, model: ModelConfig
) -> tuple[Batches, dict[str, int]]:
    """The batches, and how many bad lines or files of each `data` were left out."""
    shares: dict[Source, float] = {
        TaskSource(get_task(name), processor): share for name, share in config.tasks.items()
    }
    skipped: dict[str, int] = {}
    for place, share in config.data.items():
        found = read_data(
            place,
            processor,
            canvas_length=model.canvas_length,
            longest=model.text.max_position_embeddings,
            skip_bad=config.skip_bad,
        )
        name = str(place) if isinstance(place, str | Path) else type(place).__name__
        skipped[name] = found.skipped
        shares[FixedSource(found.rows)] = share
    batches = Batches(
        shares,
        batch_size=config.batch_size * config.candidates,
        canvas_length=model.canvas_length,
        fill_id=processor.tokenizer.id("<eos>"),
        seed=config.seed,
    )
    return batches, skipped

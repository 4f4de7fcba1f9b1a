"""Accuracy while it trains: held-out examples answered by the averaged weights."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path

from gesso.config import ModelConfig
from gesso.engine import Engine
from gesso.engine.joined import JoinedSteps
from gesso.generation.model import DiffusionGemma
from gesso.generation.request import Parameters, make_request
from gesso.generation_config import GenerationConfig
from gesso.model.lora import LoraExperts, LoraLinear
from gesso.model.network import Network
from gesso.processor import Processor
from gesso.tasks import get_task
from gesso.training.config import EvaluationConfig
from gesso.training.logs import truncate_log
from gesso.training.run_folder import JUDGEMENTS

# Answered together.
_ROWS = 16


class Judge:
    """Judges networks on the same examples, and remembers which was the best.

    Its judgements are lines of `accuracy.jsonl` in the run's folder: the step, what is judged, the
    share of each verdict, and the steps a canvas took.
    """

    def __init__(self, config: EvaluationConfig, folder: Path) -> None:
        self.config = config
        self._file = folder / JUDGEMENTS
        self._task = get_task(config.task)
        self._examples = list(
            itertools.islice(self._task.examples(split=config.split, seed=config.seed), config.n)
        )
        # Scores are compared with those of the same examples alone.
        self._judged = {name: getattr(config, name) for name in ("task", "split", "n", "seed")}
        self._exact: list[float] = []

    def check(
        self, processor: Processor, *, model: ModelConfig, generation: GenerationConfig
    ) -> None:
        """ValueError, by number, for an example that could not be asked."""
        for number, example in enumerate(self._examples, 1):
            try:
                ids = processor.encode_prompt(example.prompt)
                make_request(ids, Parameters(), model=model, defaults=generation)
            except ValueError as error:
                name = f"evaluation: example {number} of {self._task.name}"
                raise ValueError(f"{name}: {error}") from None

    def resume(self, step: int) -> None:
        """Forget what was judged after this step; remember what was judged before, on the same
        examples."""
        self._exact = [
            line["exact"]
            for line in truncate_log(self._file, step)
            # Lines of older runs do not say what was judged.
            if all(line.get(name, value) == value for name, value in self._judged.items())
        ]

    def __call__(
        self, network: Network, processor: Processor, generation: GenerationConfig, *, step: int
    ) -> bool:
        """Judge the network as it is after so many steps; whether it is the best so far."""
        model = DiffusionGemma(network.eval(), processor, generation)
        verdicts: list[Mapping[str, float]] = []
        steps: list[int] = []
        # The kernels know nothing of an adapter beside the weights.
        adapted = any(isinstance(part, LoraLinear | LoraExperts) for part in network.modules())
        engine = Engine(model, max_rows=_ROWS, stepper=JoinedSteps(network) if adapted else None)
        for place, result in engine.answers([example.prompt for example in self._examples]):
            verdicts.append(self._task.verdict(self._examples[place], result.text))
            steps.extend(result.stats.steps)
        shares = {name: sum(v[name] for v in verdicts) / len(verdicts) for name in verdicts[0]}
        # Of equals the latest: it has learned the most of what exactness does not show.
        best = not self._exact or shares["exact"] >= max(self._exact)
        self._exact.append(shares["exact"])
        line = {"step": step, **self._judged, **shares}
        line["steps_per_canvas"] = sum(steps) / max(1, len(steps))
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return best

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` judgements were all no better than one before them."""
        patience = self.config.patience
        earlier, last = self._exact[:-patience], self._exact[-patience:]
        return bool(patience and earlier) and max(last) <= max(earlier)

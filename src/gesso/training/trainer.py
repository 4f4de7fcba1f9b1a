"""The training loop: batch, loss, update, log, save; resumable to the bit on a CPU.

Everything random in a step is seeded by (seed, step), and everything that a step changes is in the
saved state, so an interrupted run that resumes gives the losses of one that was not.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gesso.checkpoint import resolve, save_adapter, save_checkpoint
from gesso.files import locked, make_folder, remove_leftovers, replacing
from gesso.model.network import Network
from gesso.processor import Processor
from gesso.training.config import TrainConfig
from gesso.training.data import Batch
from gesso.training.identity import check_same, identity
from gesso.training.judge import Judge
from gesso.training.logs import Board, summary_writer, truncate_log
from gesso.training.mixture import mix
from gesso.training.objective import (
    Losses,
    answer_losses,
    draw_noise,
    training_loss,
    unscored_passes,
)
from gesso.training.plot import plot_run
from gesso.training.processes import Processes, check_processes
from gesso.training.run_folder import (
    ADAPTER,
    BEST,
    CHECKPOINT,
    LOG,
    STATE,
    check_folder,
    holds_run,
)
from gesso.training.sharding import Sharding
from gesso.training.start import check_tokenizer, generation_of, hollow, shape_of, start
from gesso.training.weights import MasterWeights, learning_rate


class StepLog(NamedTuple):
    """What one step says of itself. Losses in nats a token, rate in examples per second."""

    step: int
    loss: float
    denoise: float
    causal: float
    denoise_hits: float
    grad_norm: float
    lr: float
    examples_per_second: float


class Trainer:
    """A run in a folder: `log.jsonl`, `state.safetensors` to resume from, and
    `checkpoint/` or `adapter/` to use; with judgements `accuracy.jsonl` and `best-checkpoint/`."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.processes = Processes.join()
        check_processes(config, self.processes)
        check_folder(folder)
        if config.tensorboard:
            summary_writer()
        self._processor_folder = resolve(config.processor, weights=False)
        self.processor = Processor.load(self._processor_folder)
        shape = shape_of(config)
        check_tokenizer(config, self.processor, shape)
        self._data, self.skipped, seen = mix(config, self.processor, shape)
        self._generation = generation_of(config)
        self._judge = Judge(config.evaluation, folder) if config.evaluation else None
        if self._judge is not None:
            self._judge.check(self.processor, model=shape, generation=self._generation)
        torch.manual_seed(config.seed)
        # From here on a mistake would cost the reading of the weights.
        self.network, base = start(config)
        self._identity = identity(config, shape, data=seen, base=base)
        self._hollow = hollow(self.network)
        self.network.checkpoint_activations = config.checkpoint_activations
        self._sharding = Sharding(
            self.network, self.processes, expert_parallel=config.expert_parallel
        )
        self._weights = MasterWeights(
            self.network, config.optimizer, total_steps=config.steps, sharding=self._sharding
        )
        self.step = 0
        # Whether what the folder holds is of this run.
        self._claimed = False
        self._saved = False

    def resume(self) -> bool:
        """Continue from the folder's saved state; False when there is none.

        ValueError when it is a run of another recipe, seed, data, shape or base, or a broken file.
        """
        if not holds_run(self.folder):
            return False
        path = self.folder / STATE
        try:
            with safe_open(path, framework="pt") as file:
                begun = json.loads((file.metadata() or {}).get("recipe", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        except SafetensorError as error:
            raise ValueError(
                f"{path}: not whole ({error}); remove the folder to begin anew, or choose another"
            ) from None
        check_same(self._identity, begun, self.folder)
        step = int(tensors.pop("steps_done"))
        self._weights.load_state(tensors)
        self.step = step
        self._claimed = self._saved = True
        return True

    def run(self, *, on_step: Callable[[StepLog], None] = lambda log: None) -> None:
        """Train to the last step, or until the judgements get no better, calling `on_step` after
        each; and save at the end. ValueError: another process trains in this folder, or it holds a
        run that was not resumed."""
        if not self.processes.first:
            self._run(on_step)
            return
        make_folder(self.folder)
        with locked(self.folder):
            self._run(on_step)

    def _run(self, on_step: Callable[[StepLog], None]) -> None:
        self._claim()
        if self.processes.first:
            # What the next save makes anew. In a best- folder it may be all that is whole.
            for part in (self.folder, self.folder / CHECKPOINT, self.folder / ADAPTER):
                remove_leftovers(part)
            truncate_log(self.folder / LOG, self.step)
            if self._judge is not None:
                self._judge.resume(self.step)
        path = self.folder / LOG if self.processes.first else os.devnull
        drawn = self.config.tensorboard and self.processes.first
        board = Board(self.folder, step=self.step) if drawn else None
        with open(path, "a", encoding="utf-8") as log_file:
            while self.step < self.config.steps and not self._given_up:
                log = self._train_step()
                self.step += 1
                last = self.step == self.config.steps
                if self.step % self.config.log_every == 0 or last:
                    log_file.write(json.dumps(log._asdict()) + "\n")
                    log_file.flush()
                    if board is not None:
                        board.add(log._asdict())
                if self._judge is not None and (self.step % self._judge.config.every == 0 or last):
                    self._evaluate(self._judge)
                # Who stops the run here stops it after the step's judgement.
                on_step(log)
                if self.step % self.config.save_every == 0 and not last:
                    self.save()
        # Also when no step was left: the last run may have ended between state and checkpoint.
        self.save()

    @property
    def _given_up(self) -> bool:
        if self._judge is None:
            return False
        return self.processes.from_first(self._judge.exhausted)

    def _evaluate(self, judge: Judge) -> None:
        network = self._averaged()
        best = False
        error: Exception | None = None
        if network is not None:
            try:
                best = judge(network, self.processor, self._generation, step=self.step)
            except Exception as caught:
                error = caught
        best, failed = self.processes.from_first((best, error is not None))
        if failed:
            # What was trained is not lost with its judgement; and all save, whoever judged.
            self.save()
            raise error or RuntimeError("the first process could not judge, and says why")
        if best:
            self._ship(best=True)
            if not self._saved:  # without a state nobody could go on from here
                self.save()

    def save(self) -> None:
        """Write the state to resume from, then the averaged weights: a checkpoint, or an adapter
        when it is one that is trained; and the plot of it all. ValueError: the folder holds a run
        that was not resumed."""
        self._claim()
        state = self._weights.state() | {"steps_done": torch.tensor(self.step)}
        recipe = {"recipe": json.dumps(self._identity)}
        if self.processes.first:
            make_folder(self.folder)
            with replacing(self.folder / STATE) as path:
                save_file(state, path, metadata=recipe)
        self._saved = True
        self._ship()
        if self.processes.first:
            plot_run(self.folder)

    def shipped(self, *, best: bool = False) -> Path:
        """The folder of the averaged weights, or of those that were judged best."""
        made = CHECKPOINT if self.config.lora is None else ADAPTER
        return self.folder / (BEST + made if best else made)

    def _claim(self) -> None:
        """ValueError when the folder holds a run, and this trainer did not resume it."""
        if self._claimed:
            return
        check_folder(self.folder)
        if holds_run(self.folder):
            raise ValueError(
                f"{self.folder}: holds a run, and training overwrites nothing; resume() continues "
                "it, or give another folder"
            )
        self._claimed = True

    def _ship(self, *, best: bool = False) -> None:
        folder = self.shipped(best=best)
        if self.config.lora is not None:
            averaged = self._weights.averaged()
            if self.processes.first:
                save_adapter(averaged, folder, config=self.config.lora, base=str(self.config.base))
        elif network := self._averaged():
            save_checkpoint(
                network,
                folder,
                dtype=torch.bfloat16,
                generation=self._generation,
                processor=self._processor_folder,
            )

    def _averaged(self) -> Network | None:
        """A network with the averaged weights, whole, that no later step changes; for the first
        process alone."""
        weights = self._sharding.state_dict(self.network)
        averaged = self._weights.averaged()
        if not self.processes.first:
            return None
        network = copy.deepcopy(self._hollow)
        trained = {name: t.to(weights[name].dtype, copy=True) for name, t in averaged.items()}
        network.load_state_dict({**weights, **trained}, assign=True)
        return network

    def _train_step(self) -> StepLog:
        config, started = self.config, time.perf_counter()
        batch = self._data.batch(self.step)
        if config.candidates > 1:
            batch = self._hardest(batch)
        losses = self._gradients(batch)
        norm = self._weights.step(self.step)
        return StepLog(
            step=self.step + 1,
            loss=losses[0],
            denoise=losses[1],
            causal=losses[2],
            denoise_hits=losses[3],
            grad_norm=norm,
            lr=learning_rate(config.optimizer, self.step, config.steps),
            examples_per_second=len(batch.ids) / (time.perf_counter() - started),
        )

    def _hardest(self, batch: Batch) -> Batch:
        """The rows of the candidates that are trained on."""
        config, rows = self.config, len(batch.ids)
        own = rows // self.processes.size
        size = -(-own // (config.candidates * config.accumulate))
        losses = torch.zeros(rows)
        first, end = own * self.processes.rank, own * (self.processes.rank + 1)
        for at in range(first, end, size):
            part = slice(at, min(at + size, end))
            losses[part] = answer_losses(self.network, batch.rows(part))
        losses = self.processes.sum(losses)
        return batch.rows(losses.topk(config.batch_size).indices.sort().values)

    def _gradients(self, batch: Batch) -> list[float]:
        """Adds the batch's gradients to the network's, part by part; returns its `Losses`."""
        config, model = self.config, self.network.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        rows = len(batch.ids)
        noise = [
            draw_noise(
                rows,
                length=model.canvas_length,
                vocab_size=model.text.vocab_size,
                generator=generator,
                steps=config.objective.unroll_steps,
            )
            for _ in range(config.objective.draws)
        ]
        rounds = [int(unscored_passes(canvas, config.objective).max()) for canvas in noise]
        sums = torch.zeros(len(Losses._fields), dtype=torch.float64)
        own = rows // self.processes.size
        size = -(-own // config.accumulate)
        for first in range(0, own, size):
            count = min(size, own - first)
            part = slice(
                first + own * self.processes.rank, first + own * self.processes.rank + count
            )
            losses = training_loss(
                self.network,
                batch.rows(part),
                config.objective,
                [canvas.rows(part) for canvas in noise],
                rounds=rounds,
            )
            values = torch.stack([value.detach().double().cpu() for value in losses])
            values = self.processes.mean(values)
            if not values.isfinite().all():
                raise FloatingPointError(self._save_bad_batch(batch))
            (losses.total * (count / own)).backward()
            self._weights.collect()
            sums += count / own * values
        return [float(value) for value in sums]

    def _save_bad_batch(self, batch: Batch) -> str:
        """Write the batch whose loss is not finite, and say where and what to do."""
        path = self.folder / f"bad-batch-{self.step}.safetensors"
        if self.processes.first:
            save_file(batch._asdict(), path)
        return (
            f"the loss is not finite at step {self.step}; its batch is in {path}; "
            "a lower learning rate or a longer warm-up is the usual mend"
        )

"""The processes of a run: this one alone, or all that torchrun has started.

torchrun --nproc-per-node 8 --no-python gesso train recipes/x.py --out runs/x
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gesso.environment import pick_device
from gesso.training.config import TrainConfig
from gesso.training.start import base_in_few_bits

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """rank: this process's number among `size`. Every method but the properties is called by all
    processes at the same place, or by none."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Processes:
        """Those that torchrun's environment tells of; each takes the GPU of its local rank."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            gpu = torch.cuda.is_available()
            if gpu:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it alone prints and writes files."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Values on the CPU, averaged over the processes."""
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Values, added up over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        return bool(self.mean(torch.tensor(float(flag))) > 0)

    def from_first(self, value: T) -> T:
        """What the first process has; what the others gave does not matter."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def check_processes(config: TrainConfig, processes: Processes) -> None:
    """ValueError for a recipe that so many cannot run."""
    if processes.size == 1:
        return
    if config.batch_size % processes.size:
        raise ValueError(
            f"batch_size: got {config.batch_size} for {processes.size} processes; "
            "give a multiple, so that each takes as many rows"
        )
    if config.optimizer.method == "muon":
        raise ValueError(
            "method: muon needs whole matrices, and several processes have pieces of them; "
            "choose adamw"
        )
    if config.quantize is not None or base_in_few_bits(config):
        raise ValueError(
            "base: weights in few bits are not sharded over processes yet; "
            "begin from wide ones and leave quantize out, or use one process"
        )
    if config.evaluation is not None and pick_device(config.device).type == "cuda":
        raise ValueError(
            f"evaluation: got {processes.size} processes on GPUs, whose weights are made whole on "
            "the CPU and not judged there yet; leave evaluation out, or use one process"
        )

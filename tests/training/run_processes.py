"""What torchrun starts for test_processes.py: runs of the recipe there, in this order."""

import sys
from pathlib import Path

import torch

from gesso.training.trainer import Trainer
from tests.training.test_processes import HALF, RUNS, recipe, stop_at


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, options in RUNS.items():
        trainer = Trainer(recipe(**options), folder / name)
        # One process began this one.
        assert trainer.resume() == (name == "continued")
        trainer.run()
    trainer = Trainer(recipe(**RUNS["experts"]), folder / "half")
    try:
        trainer.run(on_step=stop_at(HALF))
    except InterruptedError:
        trainer.save()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

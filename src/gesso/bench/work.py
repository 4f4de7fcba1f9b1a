"""How much is done in a round of `bench_step`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

# Published settings by name: one user, 1,024 random tokens in and out, 16 fixed steps a canvas,
# stop ids ignored, prefill left out.
PROTOCOLS = {"vllm-2026-06": dict(rows=1, context=1024, steps=16, canvases=4)}


@dataclass(frozen=True, kw_only=True)
class Work:
    """rows: canvases of one step, each behind `context` random tokens. canvases: that every row
    writes in a round, each of so many `steps` and, but for the last, a commit, which the engine
    joins with the next canvas's first step where there is one row; prefill is left out."""

    rows: int = 1
    context: int = 1024
    steps: int = 16
    canvases: int = 4
    rounds: int = 5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name}: got {value}; expected at least 1")

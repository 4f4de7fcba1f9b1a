"""A peer's steps beside ours: its own generate writes the same answers, and tells of each draft.

Its prompt cannot be told from its first step, so the clock starts with the first draft, and that
step counts as its median one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from gesso.bench.contender import Drafter, first_line, peer_module
from gesso.bench.subject import Subject
from gesso.bench.work import Work
from gesso.checkpoint import resolve
from gesso.model.network import Network


class _Pass(NamedTuple):
    """Seconds: of a whole answer, of a step."""

    seconds: float
    step: float


class PeerSteps:
    """All ways of one peer, in turn. notes: who failed, and is left out from then on."""

    def __init__(self, peer: str, subject: Subject, network: Network, work: Work) -> None:
        """On the network's device and in its dtype, weights in full width: random ones where the
        subject's are. ValueError for an unknown peer, one that is not installed, or work of a
        single step."""
        if work.steps * work.canvases < 2:
            raise ValueError("peer: one step cannot be told from a prompt; give more steps")
        self.notes: list[str] = []
        module = peer_module(peer)
        drafters: list[Drafter] = []
        try:
            drafters += module.transformers_drafters(
                resolve(subject.source, weights=not subject.random),
                dtype=network.dtype,
                device=network.device,
                random=subject.random,
            )
        except RuntimeError as error:  # no room for its weights: a finding too
            self.notes.append(f"{peer} failed: {first_line(error)}")
        self._passes: dict[Drafter, list[_Pass]] = {drafter: [] for drafter in drafters}
        self._work = work
        self._tokens = work.rows * work.canvases * network.config.canvas_length

    @torch.inference_mode(False)  # compiled functions are its own affair
    def turn(self, prompts: Sequence[Sequence[int]], *, counts: bool) -> None:
        """One answer of each to these prompts of one length, one a row."""
        for drafter in list(self._passes):
            try:
                one = self._answer(drafter, prompts)
            except Exception as error:  # a peer's failure is a finding, not the end of the run
                self.notes.append(f"{drafter.name} failed: {first_line(error)}")
                del self._passes[drafter]
                continue
            if counts:
                self._passes[drafter].append(one)

    def report(self) -> dict[str, Any]:
        rows = [
            {
                "name": drafter.name,
                "version": drafter.version,
                "dtype": drafter.dtype,
                "tokens_per_second": self._tokens / statistics.median(p.seconds for p in passes),
                "tokens_per_second_all": [self._tokens / p.seconds for p in passes],
                "ms_per_step": statistics.median(p.step for p in passes) * 1e3,
                "ms_per_step_all": [p.step * 1e3 for p in passes],
            }
            for drafter, passes in self._passes.items()
        ]
        return {"peers": rows, "notes": self.notes}

    def _answer(self, drafter: Drafter, prompts: Sequence[Sequence[int]]) -> _Pass:
        steps = self._work.steps
        at = drafter.draft_times(prompts, steps=steps, new_tokens=self._tokens // len(prompts))
        assert len(at) == steps * self._work.canvases, f"{drafter.name} gave {len(at)} drafts"
        # Between canvases lies the encoding of the one before.
        within = [n for n in range(1, len(at)) if n % steps or steps == 1]
        step = statistics.median(at[n] - at[n - 1] for n in within)
        return _Pass(at[-1] - at[0] + step, step)

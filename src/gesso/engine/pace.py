"""How long rounds have taken of late, and so how many steps there is time for."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from statistics import mean

import torch

from gesso.diffusion.loop import Policy

# Of so many rounds of late the time tells what the next will take; of fewer than `_TIMED` nothing
# is known, for the first ones compile and record.
_LATE, _TIMED = 16, 4
# A round that takes so many times the fastest was held up by something else.
_HELD_UP = 4


def wait_for(device: torch.device) -> None:
    """Until it has done what it was asked, so that the time can be taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Pace:
    """Of two parts of a round: a chunk of somebody's prompt, and all that has canvases to do."""

    def __init__(self) -> None:
        self._chunks: deque[float] = deque(maxlen=_LATE)
        self._steps: deque[float] = deque(maxlen=_LATE)

    def encoded(self, seconds: float) -> None:
        """So long took a chunk."""
        self._chunks.append(seconds)

    def stepped(self, seconds: float) -> None:
        """So long took a step, with the canvases committed and verified beside it."""
        self._steps.append(seconds)

    def fitted(self, policy: Policy, left: float | None, *, chunks: int) -> Policy:
        """The policy with as many of its steps as there is time for in `left` seconds (None: any
        number), so that its temperature has come down when the time is over. chunks: of prompts
        that are still to be encoded, one in each of the next rounds."""
        if left is None or len(self._steps) < _TIMED:
            return policy
        step, chunk = _usual(self._steps), _usual(self._chunks) if self._chunks else 0.0
        shared = min(chunks, int(left / (step + chunk)))
        alone = int((left - shared * (step + chunk)) / step) if shared == chunks else 0
        return replace(policy, steps=min(policy.steps, max(1, shared + alone)))


def _usual(seconds: deque[float]) -> float:
    fastest = min(seconds)
    return mean(spent for spent in seconds if spent <= _HELD_UP * fastest)

"""How long steps have taken of late, and so how many there is time for."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from statistics import median

from gesso.diffusion.loop import Policy

# Steps of late whose time tells what the next will take; of fewer than `_TIMED` nothing is known,
# for the first ones compile and record.
_LATE, _TIMED = 16, 4
# A step that takes so many times the fastest was held up by something else.
_HELD_UP = 4


class Pace:
    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_LATE)

    def took(self, seconds: float) -> None:
        """So long took a step."""
        self._seconds.append(seconds)

    def fitted(self, policy: Policy, left: float | None) -> Policy:
        """The policy with as many of its steps as there is time for in `left` seconds (None: any
        number), so that its temperature has come down when the time is over."""
        if left is None or len(self._seconds) < _TIMED:
            return policy
        fastest = min(self._seconds)
        usual = median(spent for spent in self._seconds if spent <= _HELD_UP * fastest)
        return replace(policy, steps=min(policy.steps, max(1, int(left / usual))))

"""What left-to-right decoding would have written, with a finished canvas as its draft.

One causal pass over a canvas says for each place which token the model writes there after those
before it. Up to the first that differs, the canvas is the greedy left-to-right answer, and there
the pass has the right token. The next draft goes on as the canvas does behind that token, wherever
in it that stands nearest: a word too long or too short has put the rest a place or more off. A
token that the canvas has not got is followed by what the pass said (Jacobi decoding, arXiv
2305.10427). So the result is token for token that of the mode "autoregressive", whatever the canvas
held. A right canvas takes one pass, a useless one at most as many as it has tokens.
"""

from __future__ import annotations

from collections.abc import Container, Sequence


class Verification:
    """tokens: the draft's, put right as far as is known. known: how many passes have read and found
    right; they need not be read again. follows: what the causal pass writes after those. done:
    whether that is all, up to the first stop and to the limit at most; what is behind does not
    count."""

    def __init__(
        self, draft: Sequence[int], *, first: int, stop_ids: Container[int], limit: int
    ) -> None:
        """first: what the causal pass writes in the draft's first place. limit: how many tokens of
        it are wanted, at least 1."""
        self.tokens = list(draft)
        self._draft = tuple(draft)
        self.known = 0
        self.follows = first
        self.done = False
        self._stop_ids = stop_ids
        self._limit = limit

    @property
    def reading(self) -> list[int]:
        """What the next pass is to read, after the known ones."""
        wanted = self.tokens[self.known : self._limit]
        stops = (place + 1 for place, token in enumerate(wanted) if token in self._stop_ids)
        return wanted[: next(stops, None)]

    def hear(self, said: Sequence[int]) -> None:
        """said: which token the pass writes after each of those that it read."""
        read, here = self.reading, [self.follows, *said]
        right = next((i for i, token in enumerate(read) if token != here[i]), len(read))
        self.done, self.follows = right == len(read), here[right]
        self.tokens[self.known : self.known + len(read)] = here[: len(read)]
        self.known += right
        if not self.done:
            self._draft_on()

    def _draft_on(self) -> None:
        """Behind the first token that the pass knew better."""
        here = self.known
        places = [at for at, token in enumerate(self._draft) if token == self.tokens[here]]
        if places:
            nearest = min(places, key=lambda at: abs(at - here))
            rest = self._draft[nearest + 1 :][: len(self.tokens) - here - 1]
            self.tokens[here + 1 : here + 1 + len(rest)] = rest

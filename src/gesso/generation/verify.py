"""What left-to-right decoding would have written, with a finished canvas as its draft.

One causal pass over a canvas says for each place which token the model writes there after those
before it. Up to the first that differs, the canvas is the greedy left-to-right answer; from there
on what the pass said is the next draft, whose right part is longer by one token at least (Jacobi
decoding, arXiv 2305.10427). So the result is token for token that of the mode "autoregressive",
whatever the canvas held. A right canvas takes one pass, a useless one as many as it has tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import NamedTuple


class Verified(NamedTuple):
    """tokens: the draft's, put right; behind a stop, or the limit, as they were. follows: what the
    causal pass writes after them. passes: that it took."""

    tokens: list[int]
    follows: int
    passes: int


def verify(
    draft: Sequence[int],
    *,
    first: int,
    causal: Callable[[Sequence[int]], Sequence[int]],
    stop_ids: Container[int],
    limit: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> Verified:
    """Until a pass agrees with all that it reads, up to the first stop and `limit` tokens at most.

    first: what the causal pass writes in the first place. causal: what it writes after each of
    these tokens. interrupted: asked after each pass; the tokens are then as far as they have come.
    """
    tokens, passes = list(draft), 0
    while True:
        cut = tokens[:limit]
        end = next((place + 1 for place, token in enumerate(cut) if token in stop_ids), len(cut))
        *said, follows = [first, *causal(tokens[:end])]
        passes += 1
        if said == tokens[:end] or interrupted():
            return Verified(tokens, follows, passes)
        tokens[:end] = said

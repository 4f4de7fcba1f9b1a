"""Steps by the network's own passes, anywhere: looks at canvases are joined into one forward, and
the rest is done row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gesso.cache import KVCache, stack
from gesso.diffusion.loop import CanvasState, Reading, StepOutput, advance, begin
from gesso.diffusion.sampler import Belief
from gesso.engine.row import Row
from gesso.engine.stepper import activations
from gesso.generation.denoiser import NetworkDenoiser, read_logits
from gesso.model.network import Network

# Rows share a forward while the longest has at most so many times the shortest's columns: the
# shorter ones are padded to it.
_SPREAD = 2
# Copies of a canvas's logits that a look at it holds at once: the logits, tempered,
# log-probabilities, probabilities, and the terms of the entropy.
_LOGITS = 5


class JoinedSteps:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._states: dict[int, CanvasState] = {}
        self._bound: dict[tuple[tuple[int, int], ...], NetworkDenoiser] = {}

    def begin(self, row: Row) -> None:
        self._states[row.number] = begin(row.draws, row.policy, canvas=row.canvas)

    def step(self, rows: Sequence[Row]) -> Iterator[tuple[Row, StepOutput]]:
        for group in _alike(rows):
            reading = self._read(group)
            for place, row in enumerate(group):
                yield row, self._advance(row, _at(reading, place))

    def encode(self, ids: Tensor, cache: KVCache) -> Tensor:
        return self._network.encode(ids, cache=cache)

    def likeliest(self, hidden: Tensor) -> Tensor:
        return self._network.head(hidden).argmax(-1)

    def commit(self, row: Row, tokens: Tensor) -> StepOutput:
        network, policy = self._network, row.policy
        hidden = network.commit(tokens, row.draws.initial(row.canvas), cache=row.cache)
        self.begin(row)
        heat = policy.temperature(0, policy.steps)
        return self._advance(row, read_logits(network, network.head(hidden), heat))

    def leave(self, row: Row) -> None:
        del self._states[row.number]
        self._forget({row.number})

    def clear(self) -> None:
        self._states, self._bound = {}, {}

    def workspace(self, *, rows: int, chunk: int) -> int:
        config, width = self._network.config, self._network.dtype.itemsize
        logits = rows * config.canvas_length * config.text.vocab_size
        # In float32, and for one chunk who may look at what.
        looks = 4 * chunk * config.text.max_position_embeddings
        passing = activations(config, max(rows * config.canvas_length, chunk))
        return logits * (_LOGITS * 4 + width) + looks + passing

    def held(self, columns: Sequence[int]) -> int:
        # One alone is not copied; of several, the shortest in a group is padded by so much.
        network, own = self._network, [self._network.cache_bytes(count) for count in columns]
        joined = 0
        if len(columns) > 1:
            joined = _SPREAD * sum(own) + sum(map(network.widened_bytes, columns))
        if network.compiled is None:
            return joined
        # Compiled passes pack what they read, in float32: one that encodes, beside the others.
        packed = (joined or sum(own)) + max(own, default=0)
        return joined + packed * 4 // (network.kv_cache_dtype or network.dtype).itemsize

    def _advance(self, row: Row, reading: Reading) -> StepOutput:
        self._states[row.number], output = advance(
            self._states[row.number], reading, row.draws, row.policy, canvas=row.canvas
        )
        return output

    def _read(self, rows: Sequence[Row]) -> Reading:
        denoiser = self._denoiser(rows)
        states = [self._states[row.number] for row in rows]
        tokens = torch.cat([state.tokens for state in states])  # (b, L)
        soft = None
        if any(state.soft is not None for state in states):
            # No soft embedding is the same as one of zero.
            none = denoiser.no_soft_embedding()[:1]
            soft = torch.cat([none if state.soft is None else state.soft for state in states])
        heat = [
            row.policy.temperature(state.step, row.policy.steps)
            for row, state in zip(rows, states, strict=True)
        ]
        temperature = torch.tensor(heat, device=tokens.device)[:, None, None]
        return denoiser.read(tokens, soft, temperature)

    def _denoiser(self, rows: Sequence[Row]) -> NetworkDenoiser:
        """Bound to these rows' columns, which stay as they are until one of them goes on."""
        key = tuple((row.number, row.canvas) for row in rows)
        if key not in self._bound:
            self._forget({row.number for row in rows})
            device = self._network.device
            ends = torch.tensor([row.cache.length for row in rows], device=device)
            columns = torch.arange(rows[0].request.canvas_length, device=device)
            cache = stack([row.cache for row in rows])
            self._bound[key] = NetworkDenoiser(self._network, cache, ends[:, None] + columns)
        return self._bound[key]

    def _forget(self, numbers: set[int]) -> None:
        """Drop the joined columns that any of these rows is part of."""
        self._bound = {
            key: denoiser
            for key, denoiser in self._bound.items()
            if numbers.isdisjoint(number for number, _ in key)
        }


def _at(reading: Reading, place: int) -> Reading:
    """A batch of one of its rows."""
    one = slice(place, place + 1)
    return Reading(Belief(*(part[one] for part in reading.belief)), reading.soft[one])


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups of rows with canvases of one length, and numbers of columns not too different."""

    def place(row: Row) -> tuple[int, int, int]:
        return row.request.canvas_length, row.cache.length, row.number

    groups: list[list[Row]] = []
    for row in sorted(rows, key=place):
        length, columns, _ = place(row)
        first, fewest, _ = place(groups[-1][0] if groups else row)
        if groups and length == first and columns <= _SPREAD * fewest:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups

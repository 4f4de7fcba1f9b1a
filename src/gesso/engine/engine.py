"""The scheduler: which rows share the next forward.

A step is: let in who fits; encode one chunk of the oldest prompt that is not encoded yet; take one
denoising step with every row that has a canvas; encode the canvases that were finished. A long
prompt therefore delays the others' drafts by one chunk a step, and never by all of it.

Rows of one forward may be at different steps of different canvases under different policies: the
look at the canvases is joined, and what follows from it is done row by row.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gesso.cache import stack
from gesso.diffusion.draws import SeededDraws
from gesso.diffusion.loop import Policy, Reading, advance, begin
from gesso.diffusion.sampler import Belief
from gesso.engine.memory import plan_memory, request_bytes
from gesso.engine.prefix import PrefixCache
from gesso.engine.row import Row
from gesso.generation.answer import Answer
from gesso.generation.denoiser import NetworkDenoiser
from gesso.generation.events import CanvasEvent, Commit, End, Result
from gesso.generation.loop import step_events
from gesso.generation.model import DiffusionGemma, Prompt
from gesso.generation.request import Request

# Rows share a forward while the longest has at most so many times the shortest's columns: the
# shorter ones are padded to it.
_SPREAD = 2
# How much the latest step counts in the measured time of one.
_LATEST = 0.2


class Engine:
    """Answers requests of one model as they come. Not for several threads at once."""

    def __init__(
        self,
        model: DiffusionGemma,
        *,
        max_rows: int = 16,
        chunk: int = 1024,
        max_memory: int | str | None = None,
    ) -> None:
        """max_rows: that are denoised together. chunk: tokens of a prompt encoded at a time.
        max_memory: for everything, weights included, in bytes or as "18GB"; by default most of
        what the device has. ValueError when that is too little.
        """
        for name, value in (("max_rows", max_rows), ("chunk", chunk)):
            if value < 1:
                raise ValueError(f"{name}: got {value}; expected at least 1")
        self.model = model
        self.memory = plan_memory(model.network, rows=max_rows, chunk=chunk, limit=max_memory)
        self.prefixes = PrefixCache()
        self._max_rows = max_rows
        self._chunk = chunk
        self._waiting: deque[tuple[int, Request, Answer]] = deque()
        self._rows: list[Row] = []
        self._submitted = 0
        self._joined: dict[tuple[tuple[int, int], ...], NetworkDenoiser] = {}
        self._step_seconds = 0.0

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._rows

    def submit(self, prompt: Prompt, **keys: Any) -> int:
        """Queue a prompt; arguments as in `DiffusionGemma.stream`. Returns the number that its
        events carry as `row`. ValueError for bad input, and for what could never fit the memory.
        """
        return self.submit_request(self._request(prompt, keys))

    def submit_request(self, request: Request) -> int:
        """As `submit`, for a request that has been made already."""
        needed = self._needed(request)
        if needed > self.memory.room:
            raise ValueError(
                f"the request needs {needed / 1e9:.2f} GB for keys and values, and the memory "
                f"plan has {self.memory.room / 1e9:.2f}: shorten the prompt or max_new_tokens, "
                "or raise max_memory"
            )
        number = self._submitted
        self._submitted += 1
        answer = Answer(number, request, self.model.processor, time.perf_counter())
        self._waiting.append((number, request, answer))
        return number

    def run(self) -> Iterator[CanvasEvent]:
        """Steps until every request has ended."""
        while not self.idle:
            yield from self.step()

    def answers(self, prompts: Sequence[Prompt], **keys: Any) -> Iterator[tuple[int, Result]]:
        """(place among the prompts, whole answer), each as soon as it is there.

        keys as in `submit`, for all of them. ValueError before any work starts. Nothing else
        may be at work in this engine.
        """
        assert self.idle
        requests = [self._request(prompt, keys) for prompt in prompts]
        first = self._submitted
        for request in requests:
            self.submit_request(request)
        for event in self.run():
            if isinstance(event, End):
                yield event.row - first, event.result

    @torch.inference_mode()
    def step(self) -> list[CanvasEvent]:
        """One round of work, and what it made visible."""
        events = self._drop_cancelled()
        self._admit()
        self._encode_chunk()
        for rows in _alike([row for row in self._rows if row.state is not None]):
            events += self._denoise(rows)
        self._rows = [row for row in self._rows if row.answer.finish_reason is None]
        return events

    # Letting in.

    def _request(self, prompt: Prompt, keys: Mapping[str, Any]) -> Request:
        parameters = dict(keys)
        known = ("raw", "tools", "thinking", "cancelled")
        how = {name: parameters.pop(name) for name in known if name in parameters}
        return self.model.request(prompt, parameters, **how)

    def _needed(self, request: Request) -> int:
        length = self.model.network.config.canvas_length
        canvases = -(-request.config.max_new_tokens // length)
        return request_bytes(self.model.network, len(request.prompt_ids) + canvases * length)

    def _drop_cancelled(self) -> list[CanvasEvent]:
        """Ends for those that were given up before they had a canvas."""
        events: list[CanvasEvent] = []
        early = [(number, answer) for number, _, answer in self._waiting]
        early += [(row.number, row.answer) for row in self._rows if row.state is None]
        gone = {number for number, answer in early if answer.cancelled()}
        events += [answer.end() for number, answer in early if number in gone]
        self._waiting = deque(entry for entry in self._waiting if entry[0] not in gone)
        self._rows = [row for row in self._rows if row.number not in gone]
        return events

    def _admit(self) -> None:
        """In the order of arrival: nobody overtakes a long request that waits for memory."""
        while self._waiting and len(self._rows) < self._max_rows:
            number, request, answer = self._waiting[0]
            needed = self._needed(request)
            free = self.memory.room - sum(row.reserved for row in self._rows)
            if needed > free:
                return
            self._waiting.popleft()
            self._rows.append(self._new_row(number, request, answer, needed))
            self.prefixes.shrink(free - needed)

    def _new_row(self, number: int, request: Request, answer: Answer, reserved: int) -> Row:
        network = self.model.network
        cache = self.prefixes.find(request.prompt_ids)
        row = Row(
            number=number,
            request=request,
            answer=answer,
            reserved=reserved,
            policy=request.policy,
            cache=cache or network.new_cache(batch_size=1),
            draws=SeededDraws(
                [request.parameters.seed],
                length=network.config.canvas_length,
                vocab_size=network.config.text.vocab_size,
                device=network.device,
            ),
        )
        if cache is not None:
            row.encoded = list(request.prompt_ids[: cache.length])
        return row

    # Encoding.

    def _encode_chunk(self) -> None:
        for row in self._rows:
            if row.state is not None:
                continue
            if row.pending:
                self._encode(row, row.pending[: self._chunk], mark=True)
            if not row.pending:
                self._begin(row)
            return

    def _encode(self, row: Row, ids: Sequence[int], *, mark: bool) -> None:
        network = self.model.network
        network.encode(torch.tensor([ids], device=network.device), cache=row.cache)
        row.encoded += ids
        row.prefix.extend(row.encoded, row.cache, mark=mark)
        self.prefixes.keep(row.prefix)
        self.prefixes.shrink(self.memory.room - sum(other.reserved for other in self._rows))

    def _begin(self, row: Row) -> None:
        """The row's next canvas."""
        row.policy = self._fitted(row)
        row.state = begin(row.draws, row.policy, canvas=row.canvas)

    # Denoising.

    def _denoise(self, rows: Sequence[Row]) -> list[CanvasEvent]:
        """One step of these rows in one forward."""
        started = time.perf_counter()
        reading = self._read(rows)
        events: list[CanvasEvent] = []
        for place, row in enumerate(rows):
            events += self._advance(row, _at(reading, place))
        spent = time.perf_counter() - started
        self._step_seconds += (_LATEST if self._step_seconds else 1) * (spent - self._step_seconds)
        return events

    def _read(self, rows: Sequence[Row]) -> Reading:
        denoiser = self._denoiser(rows)
        states = [row.state for row in rows if row.state is not None]
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
        return self.model.reader(denoiser, tokens, soft, temperature)

    def _denoiser(self, rows: Sequence[Row]) -> NetworkDenoiser:
        """Bound to these rows' columns, which stay as they are until one of them goes on."""
        key = tuple((row.number, row.canvas) for row in rows)
        if key not in self._joined:
            numbers = {number for number, _ in key}
            self._joined = {
                old: denoiser
                for old, denoiser in self._joined.items()
                if numbers.isdisjoint(number for number, _ in old)
            }
            network = self.model.network
            ends = torch.tensor([row.cache.length for row in rows], device=network.device)
            columns = torch.arange(network.config.canvas_length, device=network.device)
            cache = stack([row.cache for row in rows])
            self._joined[key] = NetworkDenoiser(network, cache, ends[:, None] + columns)
        return self._joined[key]

    def _advance(self, row: Row, reading: Reading) -> list[CanvasEvent]:
        assert row.state is not None
        state, output = advance(row.state, reading, row.draws, row.policy, canvas=row.canvas)
        row.state = state
        if row.answer.interrupted():
            output = output._replace(finished=torch.ones_like(output.finished))
        events = list(step_events(output, [row.answer], canvas=row.canvas))
        if isinstance(events[-1], Commit):
            self._encode(row, output.argmax[0].tolist(), mark=False)
            row.canvas += 1
            self._begin(row)
        elif isinstance(events[-1], End):
            self._joined = {
                key: denoiser
                for key, denoiser in self._joined.items()
                if all(number != row.number for number, _ in key)
            }
        return events

    def _fitted(self, row: Row) -> Policy:
        """The policy of the next canvas: with a time budget, of as many steps as there is time
        for, so that its temperature has come down when the time is over."""
        policy, left = row.request.policy, row.answer.time_left()
        if left is None or not self._step_seconds:
            return policy
        return replace(policy, steps=min(policy.steps, max(1, int(left / self._step_seconds))))


def _at(reading: Reading, place: int) -> Reading:
    """A batch of one of its rows."""
    one = slice(place, place + 1)
    return Reading(Belief(*(part[one] for part in reading.belief)), reading.soft[one])


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups of rows whose numbers of columns are not too different, those of one group padded
    to its longest."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (row.cache.length, row.number)):
        if groups and row.cache.length <= _SPREAD * groups[-1][0].cache.length:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups

"""The scheduler: which rows share the next forward.

A step is: let in who fits; encode one chunk of a prompt, and the canvases that the last step
finished; one causal pass over each canvas that is being verified; take one denoising step with
every row that has a canvas at work. Prompts take turns, a chunk each. A long one therefore delays
others' drafts by one chunk a step, and others' prompts by one chunk for each of theirs: never by
all of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gesso.diffusion.draws import SeededDraws
from gesso.diffusion.loop import Policy, StepOutput
from gesso.engine.admission import Admission, Waiting
from gesso.engine.choice import make_stepper
from gesso.engine.memory import plan_memory
from gesso.engine.pace import Pace, wait_for
from gesso.engine.prefix import PrefixCache
from gesso.engine.row import Row
from gesso.engine.stepper import Stepper
from gesso.generation.answer import Answer
from gesso.generation.events import CanvasEvent, Commit, End, Result
from gesso.generation.inference import inference
from gesso.generation.loop import draft, finish
from gesso.generation.model import DiffusionGemma, Prompt
from gesso.generation.request import Request
from gesso.generation.verify import Verification
from gesso.values import whole


class Engine:
    """Answers requests of one model as they come. Not for several threads at once.

    Events are kept until they are asked for: who leaves a loop over `run` or `answers` finds the
    others in the next. An exception in a step, Ctrl-C among them, ends the requests at work as
    "cancelled"; those that wait go on with the next step.
    """

    def __init__(
        self,
        model: DiffusionGemma,
        *,
        max_rows: int = 16,
        chunk: int = 1024,
        max_memory: int | str | None = None,
        stepper: Stepper | None = None,
    ) -> None:
        """max_rows: that are denoised together. chunk: tokens of a prompt encoded at a time.
        max_memory: for everything, weights included, in bytes or as "18GB"; by default most of
        what is free on the device. stepper: how canvases take a step; by default by kernels on a
        GPU, and elsewhere by the network's own passes. ValueError when the memory is too little.
        """
        max_rows, chunk = whole("max_rows", max_rows, low=1), whole("chunk", chunk, low=1)
        self.model = model
        self._stepper = stepper or make_stepper(model.network, max_rows)
        self.memory = plan_memory(
            model.network, self._stepper, rows=max_rows, chunk=chunk, limit=max_memory
        )
        self.prefixes = PrefixCache()
        self._max_rows = max_rows
        self._chunk = chunk
        self._admission = Admission(model.network, self._stepper, self.memory)
        self._rows: list[Row] = []
        self._events: deque[CanvasEvent] = deque()  # that nobody has been given yet
        self._submitted = 0
        self._pace = Pace()

    @property
    def idle(self) -> bool:
        """Whether every request has ended, and all of that has been told."""
        return not self._admission.waiting and not self._rows and not self._events

    def submit(self, prompt: Prompt, **keys: Any) -> int:
        """Queue a prompt; arguments as in `DiffusionGemma.stream`. Returns the number that its
        events carry as `row`. ValueError for bad input, and for what could never fit the memory.
        """
        return self.submit_request(self._request(prompt, keys))

    def submit_request(self, request: Request) -> int:
        """As `submit`, for a request that has been made already."""
        self.check(request)
        number = self._submitted
        self._submitted += 1
        answer = Answer(number, request, self.model.processor, time.perf_counter())
        self._admission.add(number, request, answer)
        return number

    def check(self, request: Request) -> None:
        """ValueError for what could never fit the memory."""
        self._admission.check(request)

    def run(self) -> Iterator[CanvasEvent]:
        """Steps until every request has ended."""
        while not self.idle:
            yield self._next()

    def answers(self, prompts: Sequence[Prompt], **keys: Any) -> Iterator[tuple[int, Result]]:
        """(place among the prompts, whole answer), each as soon as it is there.

        keys as in `submit`, for all of them. ValueError before any work starts, also when other
        requests are at work: `run` tells of those. Who stops asking gives up the rest.
        """
        if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable):
            raise ValueError(f"prompts: got {prompts!r:.80}; give a list of prompts")
        if not self.idle:
            raise ValueError("answers: other requests are at work; let run() end them first")
        requests = [self._request(prompt, keys) for prompt in prompts]
        for request in requests:
            self.check(request)
        places = {self.submit_request(request): place for place, request in enumerate(requests)}
        own, others, left = frozenset(places), list[CanvasEvent](), len(places)
        try:
            while left:
                event = self._next()
                if event.row not in own:
                    others.append(event)
                elif isinstance(event, End):
                    left -= 1
                    yield places[event.row], event.result
        finally:
            with inference(self.model.network):
                self._drop(own)
            told = (event for event in self._events if event.row not in own)
            self._events = deque([*others, *told])

    def step(self) -> list[CanvasEvent]:
        """One round of work, and what it made visible."""
        self._round()
        events = list(self._events)
        self._events.clear()
        return events

    def _next(self) -> CanvasEvent:
        """The next event, after as many rounds as that takes."""
        while not self._events:
            self._round()
        return self._events.popleft()

    def _round(self) -> None:
        with inference(self.model.network):
            try:
                self._work()
            except BaseException:
                self._give_up()
                raise

    def _work(self) -> None:
        self._drop_late()
        self._admit()
        self._encode_chunk()
        started = time.perf_counter()
        for row in self._rows:
            if row.verification is not None:
                self._events += self._verify(row, row.verification)
        if rows := [row for row in self._rows if row.denoises]:
            self._denoise(rows)
            self._pace.stepped(time.perf_counter() - started)
        self._rows = [row for row in self._rows if row.answer.finish_reason is None]

    def _give_up(self) -> None:
        """What an exception left half done is given up: rows, and columns kept for others."""
        rows, self._rows = self._rows, []
        self.prefixes = PrefixCache()
        self._stepper.clear()
        told = {event.row for event in self._events if isinstance(event, End)}
        for row in rows:
            if row.number not in told:
                row.answer.finish_reason = row.answer.finish_reason or "cancelled"
                self._events.append(row.answer.end())

    # Letting in.

    def _request(self, prompt: Prompt, keys: Mapping[str, Any]) -> Request:
        parameters = dict(keys)
        known = ("raw", "tools", "thinking", "cancelled")
        how = {name: parameters.pop(name) for name in known if name in parameters}
        return self.model.request(prompt, parameters, **how)

    def _drop_late(self) -> None:
        """Those that were given up, or whose time was over, before they had a canvas."""
        early = [(waiting.number, waiting.answer) for waiting in self._admission.waiting]
        early += [(row.number, row.answer) for row in self._rows if not row.begun]
        self._end({number: answer for number, answer in early if answer.interrupted()})

    def _end(self, early: Mapping[int, Answer]) -> None:
        """These, by number, whose answers have ended without a canvas."""
        if early:
            self._drop(early)
            self._events += [answer.end() for answer in early.values()]

    def _drop(self, numbers: Container[int]) -> None:
        """Those of them that have not ended, without a word."""
        for row in self._rows:
            if row.begun and row.answer.finish_reason is None and row.number in numbers:
                self._stepper.leave(row)
        self._rows = [row for row in self._rows if row.number not in numbers]
        self._admission.drop(numbers)

    def _admit(self) -> None:
        while len(self._rows) < self._max_rows and (first := self._admission.next(self._rows)):
            self._rows.append(self._new_row(first))
            self._admission.waiting.popleft()
            self._shrink_prefixes()

    def _new_row(self, waiting: Waiting) -> Row:
        request = waiting.request
        network = self.model.network
        ids = request.prompt_ids
        # What follows a prompt is known where it ends: its last token is then encoded here.
        prefix = self.prefixes.find(ids[:-1] if request.config.verify else ids)
        return Row(
            number=waiting.number,
            request=request,
            answer=waiting.answer,
            columns=waiting.columns,
            policy=request.policy,
            cache=prefix.cache or network.new_cache(batch_size=1),
            prefix=prefix,
            draws=SeededDraws(
                [request.parameters.seed],
                length=request.canvas_length,
                vocab_size=network.config.text.vocab_size,
                device=network.device,
            ),
        )

    # Encoding.

    def _encode_chunk(self) -> None:
        """Of the row whose turn it is, which goes to the end of the line."""
        place = next((i for i, row in enumerate(self._rows) if row.pending), None)
        if place is not None:
            row, started = self._rows[place], time.perf_counter()
            self._rows = [*self._rows[:place], *self._rows[place + 1 :], row]
            hidden = self._encode(row, row.pending[: self._chunk], mark=True)
            if row.request.config.verify and not row.pending:
                row.follows = int(self._stepper.likeliest(hidden[:, -1:]))
            wait_for(self.model.network.device)
            self._pace.encoded(time.perf_counter() - started)
        for row in self._rows:
            if not row.begun and not row.pending:
                self._begin(row)

    def _encode(self, row: Row, ids: Sequence[int], *, mark: bool) -> Tensor:
        tokens = torch.tensor([ids], device=self.model.network.device)
        hidden = self._stepper.encode(tokens, row.cache)
        self._keep(row, ids, mark=mark)
        return hidden

    def _keep(self, row: Row, ids: Sequence[int], *, mark: bool) -> None:
        """What is encoded now, for others that begin likewise."""
        row.prefix.extend(ids, row.cache, mark=mark)
        self.prefixes.keep(row.prefix)
        self._shrink_prefixes()

    def _shrink_prefixes(self) -> None:
        """To what no row at work can come to need."""
        self.prefixes.shrink(self._admission.free(self._rows))

    def _begin(self, row: Row) -> None:
        """The row's next canvas."""
        row.policy, row.finished = self._fitted(row), None
        self._stepper.begin(row)
        row.begun = True

    # Denoising.

    def _denoise(self, rows: Sequence[Row]) -> None:
        """One step of all these rows, and what follows for each."""
        if len(self._rows) == 1 and self.model.network.compiled is None:
            # In one pass with the canvas before. Others would share this step anyway, and wait
            # longer for the pass; and the passes in C++ know none that does both.
            [row] = rows
            if row.finished is not None:
                self._events += self._follow(row, self._commit(row, row.finished))
                return
        for row in rows:
            if row.finished is not None:
                self._encode(row, row.finished[0].tolist(), mark=False)
                self._begin(row)
        outputs = list(self._stepper.step(rows))
        wait_for(self.model.network.device)  # as what follows does anyway
        for row, output in outputs:
            self._events += self._follow(row, output)

    def _commit(self, row: Row, finished: Tensor) -> StepOutput:
        """The row's canvas becomes columns, and the next begins and takes its first step."""
        row.policy, row.finished = self._fitted(row), None
        first = self._stepper.commit(row, finished)
        self._keep(row, finished[0].tolist(), mark=False)
        return first

    def _follow(self, row: Row, output: StepOutput) -> list[CanvasEvent]:
        if row.answer.interrupted():
            output = output._replace(finished=torch.ones_like(output.finished))
        row.steps = output.step + 1
        events: list[CanvasEvent] = [draft(row.answer, output, 0, canvas=row.canvas)]
        if output.finished:
            block = output.argmax[0].tolist()
            if row.follows is None or row.answer.finish_reason is not None:
                return events + self._finish(row, block)
            row.verification = row.answer.verification(block, first=row.follows)
        return events

    def _verify(self, row: Row, work: Verification) -> list[CanvasEvent]:
        """One causal pass over what is not known yet of the row's finished canvas. Of its columns
        those are kept whose tokens turn out to be right."""
        if not row.answer.interrupted():
            before = row.cache.length - work.known
            ids = torch.tensor([work.reading], device=self.model.network.device)
            with row.cache.untrimmed():
                hidden = self._stepper.encode(ids, row.cache)
            work.hear(self._stepper.likeliest(hidden)[0].tolist())
            row.cache.cut(before + work.known)
            row.answer.forwards += 1
        if not work.done and row.answer.finish_reason is None:
            return []
        row.verification, row.follows = None, work.follows
        events = self._finish(row, work.tokens)
        if row.finished is not None:
            self._keep(row, work.tokens, mark=False)
            self._begin(row)
        return events

    def _finish(self, row: Row, block: Sequence[int]) -> list[CanvasEvent]:
        cap = row.policy.steps
        events = list(finish(row.answer, block, canvas=row.canvas, steps=row.steps, cap=cap))
        if isinstance(events[-1], Commit):
            row.finished = torch.tensor([block], device=self.model.network.device)
            row.canvas += 1
        elif isinstance(events[-1], End):
            self._stepper.leave(row)
        return events

    def _fitted(self, row: Row) -> Policy:
        """The policy of the row's next canvas."""
        chunks = sum(-(-len(other.pending) // self._chunk) for other in self._rows)
        return self._pace.fitted(row.request.policy, row.answer.time_left(), chunks=chunks)

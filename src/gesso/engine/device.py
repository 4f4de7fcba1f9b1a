"""A denoising step whole on the device: from token ids to the next, stop flags included.

Everything that a step needs of a row is in tensors of fixed place: its columns (`Slots`), its
canvas, its policy and its seed. What runs over them is recorded once for each length of canvas and
each padded number of rows as a CUDA graph, and replayed; where there are no graphs it runs as it is
written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gesso.cache import KVCache
from gesso.diffusion.loop import StepOutput
from gesso.diffusion.rng import Stream, split_seeds
from gesso.diffusion.sampler import EntropyBound
from gesso.diffusion.stopping import NeverEarly, StableAndConfident
from gesso.engine.kernel_runner import KernelRunner
from gesso.engine.row import Row
from gesso.engine.slots import Slots
from gesso.engine.stepper import activations
from gesso.kernels.gpu import step as kernels
from gesso.kernels.gpu.head import head
from gesso.kernels.gpu.soft_embed import SPANS, soft_embed
from gesso.model.network import Network

# Slots are as long as the longest request, in units of so many columns, or of an eighth of it.
_COLUMNS = 1024
# Steps of a policy, and drafts that a stop rule looks back on, for which there is room at first.
_STEPS, _MEMORY = 64, 2


@dataclass(frozen=True)
class _Outcome:
    """What a step leaves for the host, each (b, L), rows as in the slots."""

    argmax: Tensor
    entropy: Tensor
    accepted: Tensor

    def clone(self) -> _Outcome:
        """To be kept: the next step overwrites what a recorded one leaves."""
        return _Outcome(self.argmax.clone(), self.entropy.clone(), self.accepted.clone())

    def row(self, place: int, *, step: int, finished: bool) -> StepOutput:
        """One row's, as a batch of its own. What the host asks of it lies on the host."""
        one = slice(place, place + 1)
        return StepOutput(
            rows=torch.zeros(1, dtype=torch.int64),
            step=step,
            argmax=self.argmax[one],
            entropy=self.entropy[one],
            accepted=self.accepted[one],
            finished=torch.tensor([finished]),
        )


class _Canvases:
    """The canvases of one length: a place for every slot, finished where there is none of it.

    soft (rows, L, M); state as `kernels.RowState` says; graphs by padded number of rows.
    """

    def __init__(self, network: Network, *, rows: int, length: int) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=network.device)

        self.length = length
        self.soft = zeros(length, network.config.text.hidden_size, dtype=network.dtype)
        self.state = kernels.RowState(
            tokens=zeros(length), earlier=zeros(_MEMORY, length) - 1, step=zeros(),
            finished=zeros(dtype=torch.bool) | True,
        )  # fmt: skip
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, _Outcome]] = {}

    def put(self, at: int, tokens: Tensor) -> None:
        """A canvas (L,) before its first step."""
        self.soft[at] = 0
        self.state.tokens[at] = tokens
        self.state.earlier[at] = -1
        self.state.step[at] = 0
        self.state.finished[at] = False

    def remember(self, drafts: int) -> None:
        """Room for so many earlier drafts."""
        if (more := drafts - self.state.earlier.shape[1]) > 0:
            earlier = F.pad(self.state.earlier, (0, 0, more, 0), value=-1)
            self.state, self.graphs = self.state._replace(earlier=earlier), {}


class DeviceSteps:
    """In place of `JoinedSteps`: the same outputs, from kernels."""

    def __init__(self, network: Network, *, rows: int) -> None:
        """For so many rows at most."""

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(rows, *shape, dtype=dtype, device=network.device)

        self._network = network
        self._records = network.device.type != "cpu"
        self._kernels = KernelRunner(network)
        self._rows = rows
        self._placed: list[Row | None] = [None] * rows  # by slot
        self._taken = [0] * rows  # steps of the canvas at hand, by slot
        self._slots: Slots | None = None
        self._canvases: dict[int, _Canvases] = {}  # by length
        self._seeds, self._canvas = zeros(2), zeros()
        self._heat = zeros(_STEPS, dtype=torch.float32) + 1  # temperature of every step
        self._policy = kernels.RowPolicy(
            steps=zeros(), bound=zeros(dtype=torch.float32), stability=zeros(),
            confidence=zeros(dtype=torch.float32),
        )  # fmt: skip

    def begin(self, row: Row) -> None:
        at = self._place(row)
        self._make_room(row)
        assert self._slots is not None
        self._slots.put(at, row.cache)
        policy = row.policy
        assert isinstance(policy.accept, EntropyBound)
        assert isinstance(policy.stop, NeverEarly | StableAndConfident)
        heat = [policy.temperature(step, policy.steps) for step in range(policy.steps)]
        self._heat[at, : policy.steps] = torch.tensor(heat)
        self._policy.steps[at] = policy.steps
        self._policy.bound[at] = policy.accept.bound
        early = policy.stop if isinstance(policy.stop, StableAndConfident) else None
        self._policy.stability[at] = early.stability if early else 0
        self._policy.confidence[at] = early.confidence if early else 0.0
        self._taken[at] = 0
        self._seeds[at] = split_seeds([row.request.parameters.seed], self._seeds.device)[0]
        self._canvas[at] = row.canvas
        canvases = self._canvases[row.request.canvas_length]
        canvases.remember(policy.stop.memory)
        canvases.put(at, row.draws.initial(row.canvas)[0])

    def step(self, rows: Sequence[Row]) -> Iterator[tuple[Row, StepOutput]]:
        for length in sorted({row.request.canvas_length for row in rows}):
            group = [row for row in rows if row.request.canvas_length == length]
            yield from self._step_group(self._canvases[length], group)

    def _step_group(
        self, canvases: _Canvases, rows: Sequence[Row]
    ) -> Iterator[tuple[Row, StepOutput]]:
        places = [self._slot_of(row) for row in rows]
        outcome = self._run(canvases, self._padded(max(places) + 1)).clone()
        finished = canvases.state.finished.tolist()  # the one question a step asks of the device
        for at, row in zip(places, rows, strict=True):
            yield row, outcome.row(at, step=self._taken[at], finished=finished[at])
            self._taken[at] += 1

    def encode(self, ids: Tensor, cache: KVCache) -> Tensor:
        return self._network.encode(ids, cache=cache, by=self._kernels)

    def likeliest(self, hidden: Tensor) -> Tensor:
        network, count = self._network, hidden.shape[1]
        one = torch.ones(count, device=hidden.device)
        said = head(
            hidden.flatten(0, 1), network.embed.weight.detach(),
            cap=network.config.text.final_logit_softcapping, uniform=one / 2, temperature=one,
        )  # fmt: skip
        return said.argmax[None]

    def commit(self, row: Row, tokens: Tensor) -> StepOutput:
        canvas = row.draws.initial(row.canvas)
        hidden = self._network.commit(tokens, canvas, cache=row.cache, by=self._kernels)
        self.begin(row)
        canvases, at = self._canvases[row.request.canvas_length], self._slot_of(row)
        one = slice(at, at + 1)
        outcome = self._end(canvases, one, hidden.flatten(0, 1))
        self._taken[at] = 1
        return outcome.row(0, step=0, finished=bool(canvases.state.finished[at]))

    def leave(self, row: Row) -> None:
        at = self._slot_of(row)
        self._canvases[row.request.canvas_length].state.finished[at] = True
        self._placed[at] = None

    def clear(self) -> None:
        self._placed = [None] * self._rows
        for canvases in self._canvases.values():
            canvases.state.finished.fill_(True)

    def workspace(self, *, rows: int, chunk: int) -> int:
        config = self._network.config
        tokens = rows * config.canvas_length
        # Logits, and the parts of the soft embedding.
        ends = config.text.vocab_size * self._network.dtype.itemsize
        ends += SPANS * config.text.hidden_size * 4
        work = tokens * ends + activations(config, max(tokens, chunk))
        if not self._records:
            return work
        # Recorded steps keep their tensors to themselves, beside those of first runs and prompts,
        # and what one number of rows has left is mostly too small for the next.
        recorded = sum({min(rows, 1 << i) for i in range(rows.bit_length() + 1)})
        recorded *= config.canvas_length
        return work + recorded * ends + activations(config, recorded)

    def held(self, columns: Sequence[int]) -> int:
        """Bytes of the slots while requests of so many columns each are at work: of those that
        are there, where they do, else of those that are made in their place."""
        used = (at + 1 for at, row in enumerate(self._placed) if row is not None)
        rows = self._padded(max([len(columns), *used]))
        longest = max(map(_round_up, columns), default=0)
        if (there := self._slots) and there.rows >= rows and there.columns >= longest:
            rows, longest = there.rows, there.columns
        return rows * self._network.cache_bytes(longest)

    def _place(self, row: Row) -> int:
        """The lowest slot that is free or the row's own: a step takes all below the highest."""
        placed = enumerate(self._placed)
        lowest = next(i for i, other in placed if other is None or other is row)
        if any(other is row for other in self._placed[lowest + 1 :]):
            self.leave(row)
        self._placed[lowest] = row
        return lowest

    def _slot_of(self, row: Row) -> int:
        return next(i for i, other in enumerate(self._placed) if other is row)

    def _make_room(self, row: Row) -> None:
        """Larger tensors where this row needs them; what was recorded over the old ones goes, and
        so do they, before there are new ones: rows have all columns themselves."""
        placed = [(at, other) for at, other in enumerate(self._placed) if other is not None]
        rows, there = self._padded(placed[-1][0] + 1), self._slots
        if there is None or there.rows < rows or there.columns < row.columns:
            network = self._network
            self._forget_graphs()
            self._slots = there = None
            self._slots = Slots(
                network.config.text, rows=rows,
                columns=max(_round_up(other.columns) for _, other in placed),
                dtype=network.kv_cache_dtype or network.dtype, device=network.device,
            )  # fmt: skip
            for at, other in placed:
                if other is not row:
                    self._slots.put(at, other.cache)
        if (more := row.policy.steps - self._heat.shape[1]) > 0:
            self._heat = F.pad(self._heat, (0, more), value=1.0)
            self._forget_graphs()
        length = row.request.canvas_length
        if length not in self._canvases:
            # A request may ask for any length: what no row at work has is not kept.
            at_work = {other.request.canvas_length for other in self._placed if other is not None}
            self._canvases = {n: each for n, each in self._canvases.items() if n in at_work}
            self._canvases[length] = _Canvases(self._network, rows=self._rows, length=length)

    def _padded(self, rows: int) -> int:
        """How many slots a step over so many takes: the next power of two."""
        return min(self._rows, 1 << (rows - 1).bit_length()) if rows else 0

    def _forget_graphs(self) -> None:
        for canvases in self._canvases.values():
            canvases.graphs = {}

    def _run(self, canvases: _Canvases, rows: int) -> _Outcome:
        if not self._records:
            return self._step(canvases, rows)
        if rows not in canvases.graphs:
            canvases.graphs[rows] = self._record(canvases, rows)
        graph, outcome = canvases.graphs[rows]
        graph.replay()
        return outcome

    def _record(self, canvases: _Canvases, rows: int) -> tuple[torch.cuda.CUDAGraph, _Outcome]:
        """Kernels are compiled by a first run, whose effects on the state are taken back."""
        changed = [canvases.soft, *canvases.state]
        kept = [tensor.clone() for tensor in changed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step(canvases, rows)
        torch.cuda.current_stream().wait_stream(side)
        for tensor, old in zip(changed, kept, strict=True):
            tensor.copy_(old)
        graph = torch.cuda.CUDAGraph()
        graphs = [known for each in self._canvases.values() for known, _ in each.graphs.values()]
        with torch.cuda.graph(graph, pool=graphs[0].pool() if graphs else None):
            outcome = self._step(canvases, rows)  # noted, and not run
        return graph, outcome

    def _step(self, canvases: _Canvases, rows: int) -> _Outcome:
        """The first so many slots, finished ones among them: those stay as they are."""
        assert self._slots is not None
        tokens, soft = canvases.state.tokens[:rows], canvases.soft[:rows]
        hidden = self._kernels.denoise_hidden(tokens, soft, self._slots)
        return self._end(canvases, slice(rows), hidden)

    def _end(self, canvases: _Canvases, rows: slice, hidden: Tensor) -> _Outcome:
        """What follows from the hidden states (b * L, M) of these slots."""
        network, length = self._network, canvases.length
        cap, weight = network.config.text.final_logit_softcapping, network.embed.weight.detach()
        state = kernels.RowState(*(tensor[rows] for tensor in canvases.state))
        seeds, canvas = self._seeds[rows], self._canvas[rows]
        last = self._heat.shape[1] - 1
        heat = self._heat[rows].gather(1, state.step.clamp(max=last)[:, None])
        uniform = kernels.draw_uniforms(
            seeds, canvas, state.step, stream=Stream.SAMPLE, length=length
        )
        said = head(
            hidden, weight, cap=cap, uniform=uniform.flatten(),
            temperature=heat.expand(-1, length).flatten().contiguous(),
        )  # fmt: skip
        soft = soft_embed(said.logits, said.log_sum, weight, scale=float(network.embed_scale))
        canvases.soft[rows] = soft.view(len(seeds), length, -1)
        argmax, entropy = said.argmax.view(-1, length), said.entropy.view(-1, length)
        accepted = kernels.advance(
            state,
            kernels.RowPolicy(*(tensor[rows] for tensor in self._policy)),
            argmax=argmax,
            entropy=entropy,
            sampled=said.sampled.view(-1, length),
            seeds=seeds,
            canvas=canvas,
            stream=Stream.RENOISE_TOKEN,
            vocab_size=network.config.text.vocab_size,
        )
        return _Outcome(argmax, entropy, accepted)


def _round_up(columns: int) -> int:
    unit = max(_COLUMNS, 1 << max(0, (columns - 1).bit_length() - 3))
    return -(-columns // unit) * unit

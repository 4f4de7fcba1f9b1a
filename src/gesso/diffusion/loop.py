"""The inner loop: one canvas from noise to text. It knows a denoiser, never the network.

    canvas <- noise
    for each step: read(canvas, soft); sample; accept; renoise the rest; stop?

Rows that are finished leave: the denoiser never sees them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gesso.diffusion.draws import Draws
from gesso.diffusion.sampler import Acceptance, Belief
from gesso.diffusion.schedule import TemperatureSchedule
from gesso.diffusion.stopping import Stopping


class Reading(NamedTuple):
    """One look at a canvas: what the tempered logits say, and the soft embedding (b, L, M) that
    they make for the next look."""

    belief: Belief
    soft: Tensor


class Denoiser(Protocol):
    """The network as the loop sees it, bound to what the canvas may read."""

    def read(self, tokens: Tensor, soft: Tensor | None, temperature: float | Tensor) -> Reading:
        """The costly part of a step. tokens (b, L) int64, soft (b, L, M) or None; the temperature,
        one or (b, 1, 1), divides the logits."""
        ...

    def select(self, rows: Tensor) -> Denoiser:
        """The same for some rows of the batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a canvas is refined: four choices that the loop composes."""

    steps: int
    temperature: TemperatureSchedule
    accept: Acceptance
    stop: Stopping


class CanvasState(NamedTuple):
    """All that one denoising step needs of the rows still at work.

    rows (b,): their places in the batch. tokens (b, L): the canvas. soft (b, L, M) or None.
    earlier (b, K, L): the last argmax canvases, -1 where there was none. step: steps done.
    """

    rows: Tensor
    tokens: Tensor
    soft: Tensor | None
    earlier: Tensor
    step: int

    def select(self, kept: Tensor) -> CanvasState:
        soft = None if self.soft is None else self.soft[kept]
        return CanvasState(self.rows[kept], self.tokens[kept], soft, self.earlier[kept], self.step)


class StepOutput(NamedTuple):
    """What one step gave for the rows that took part.

    rows (b,): their places in the batch. argmax (b, L): the draft; of a finished row, the result.
    entropy (b, L) in nats. accepted (b, L) bool. finished (b,) bool: by the stop rule, the cap or
    an interruption.
    """

    rows: Tensor
    step: int
    argmax: Tensor
    entropy: Tensor
    accepted: Tensor
    finished: Tensor


def denoise_canvas(
    denoiser: Denoiser,
    draws: Draws,
    policy: Policy,
    *,
    canvas: int,
    interrupt: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[StepOutput]:
    """Refine the batch's canvases number `canvas`, yielding after every step.

    Ends when every row is finished. interrupt: asked after each step which of the rows (b,) to
    finish as they stand, (b,) bool.
    """
    state = begin(draws, policy, canvas=canvas)
    while len(state.rows):
        state, output = step(state, denoiser, draws, policy, canvas=canvas)
        if interrupt is not None:
            output = output._replace(finished=output.finished | interrupt(output.rows))
        yield output
        if bool(output.finished.any()):
            kept = (~output.finished).nonzero()[:, 0]
            state, denoiser, draws = state.select(kept), denoiser.select(kept), draws.select(kept)


def begin(draws: Draws, policy: Policy, *, canvas: int) -> CanvasState:
    """All rows' canvases as noise."""
    tokens = draws.initial(canvas)  # (B, L)
    return CanvasState(
        rows=torch.arange(len(tokens), device=tokens.device),
        tokens=tokens,
        soft=None,
        step=0,
        earlier=tokens.new_full((len(tokens), policy.stop.memory, tokens.shape[1]), -1),
    )


def step(
    state: CanvasState,
    denoiser: Denoiser,
    draws: Draws,
    policy: Policy,
    *,
    canvas: int,
) -> tuple[CanvasState, StepOutput]:
    """One denoising step: a look at the canvas, and what follows from it."""
    temperature = policy.temperature(state.step, policy.steps)
    reading = denoiser.read(state.tokens, state.soft, temperature)
    return advance(state, reading, draws, policy, canvas=canvas)


def advance(
    state: CanvasState, reading: Reading, draws: Draws, policy: Policy, *, canvas: int
) -> tuple[CanvasState, StepOutput]:
    """The cheap part of a step: sample, accept, renoise, judge."""
    belief, soft = reading
    accepted = policy.accept(belief.entropy)
    sampled = draws.sample(belief.probabilities, canvas=canvas, step=state.step)
    noise = draws.renoise(canvas=canvas, step=state.step)
    finished = policy.stop(belief.argmax, state.earlier, belief.entropy)
    done = state.step + 1
    if done == policy.steps:
        finished = torch.ones_like(finished)
    output = StepOutput(state.rows, state.step, belief.argmax, belief.entropy, accepted, finished)
    earlier = torch.cat((state.earlier[:, 1:], belief.argmax[:, None]), 1)
    return CanvasState(
        rows=state.rows,
        tokens=torch.where(accepted, sampled, noise),
        soft=soft,
        earlier=earlier[:, : policy.stop.memory],
        step=done,
    ), output

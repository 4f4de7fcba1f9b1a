"""The reference loop, whole: what every faster path has to equal, event for event.

encode the prompts into the cache
until every row has ended:
    refine the next canvas (diffusion/loop.py), and verify it where that is asked for
    cut it where the answer stops; rows that ended leave
    encode the finished canvases into the cache
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gesso.cache import KVCache, stack
from gesso.diffusion.draws import Draws, SeededDraws
from gesso.diffusion.loop import StepOutput, denoise_canvas
from gesso.generation.answer import Answer
from gesso.generation.denoiser import NetworkDenoiser
from gesso.generation.events import CanvasEvent, Draft
from gesso.generation.request import Request
from gesso.model.network import Network
from gesso.processor import Processor


@torch.inference_mode()
def generate_events(
    network: Network,
    processor: Processor,
    requests: Sequence[Request],
    *,
    draws: Draws | None = None,
) -> Iterator[CanvasEvent]:
    """Answer a batch of requests that share one policy and one length of canvas, yielding events as
    they happen.

    draws: where randomness comes from; by default each row's own seed.
    """
    started = time.perf_counter()
    policy = requests[0].policy
    assert all(request.policy == policy for request in requests), "one batch, one policy"
    length, device = requests[0].canvas_length, network.device
    assert all(request.canvas_length == length for request in requests)
    draws = draws or SeededDraws(
        [request.parameters.seed for request in requests],
        length=length,
        vocab_size=network.config.text.vocab_size,
        device=device,
    )
    answers = [Answer(i, request, processor, started) for i, request in enumerate(requests)]
    prefilled = [_prefill(network, request.prompt_ids) for request in requests]
    cache = stack([filled for filled, _ in prefilled])
    follows = [token for _, token in prefilled]
    ends = torch.tensor([len(request.prompt_ids) for request in requests], device=device)
    canvas = 0
    while answers:
        positions = ends[:, None] + torch.arange(length, device=device)  # (B, L)
        blocks = torch.empty_like(positions)

        def interrupt(rows: Tensor, answers: list[Answer] = answers) -> Tensor:
            return torch.tensor([answers[i].interrupted() for i in rows.tolist()], device=device)

        denoiser = NetworkDenoiser(network, cache, positions)
        for output in denoise_canvas(denoiser, draws, policy, canvas=canvas, interrupt=interrupt):
            if requests[0].config.verify:
                _verify(output, answers, follows, network, cache, positions)
            blocks[output.rows] = output.argmax
            yield from step_events(output, answers, canvas=canvas, cap=policy.steps)
        going = [i for i, answer in enumerate(answers) if answer.finish_reason is None]
        if not going:
            return
        if len(going) < len(answers):
            rows = torch.tensor(going, device=device)
            answers, follows = [answers[i] for i in going], [follows[i] for i in going]
            cache, draws, ends = cache.select(rows), draws.select(rows), ends[rows]
            positions, blocks = positions[rows], blocks[rows]
        network.encode(blocks, cache=cache, positions=positions)
        ends = ends + length
        canvas += 1


def step_events(
    output: StepOutput, answers: Sequence[Answer], *, canvas: int, cap: int
) -> Iterator[CanvasEvent]:
    """A draft for each row that took the step; commit and end for those that it finished.

    cap: the steps of the policy that these canvases are refined by.
    """
    finished = output.finished.tolist()
    for place, row in enumerate(output.rows.tolist()):
        answer = answers[row]
        answer.saw_draft()
        yield Draft(
            row=answer.row,
            canvas=canvas,
            step=output.step,
            tokens=output.argmax[place],
            entropy=output.entropy[place],
            accepted=output.accepted[place],
        )
        if finished[place]:
            # A cancelled canvas is dropped: nobody waits for it any more.
            if answer.finish_reason != "cancelled":
                block, steps = output.argmax[place].tolist(), output.step + 1
                yield answer.commit(block, canvas=canvas, steps=steps, capped=steps == cap)
            if answer.finish_reason is not None:
                yield answer.end()


def _prefill(network: Network, prompt_ids: Sequence[int]) -> tuple[KVCache, int]:
    """Encode one prompt by itself: nothing is padded, so no other prompt can touch a bit of it.
    And the token that the causal pass would write after it."""
    cache = network.new_cache(batch_size=1)
    hidden = network.encode(torch.tensor([prompt_ids], device=network.device), cache=cache)
    return cache, int(network.head(hidden[:, -1:]).argmax())


def _verify(
    output: StepOutput,
    answers: Sequence[Answer],
    follows: list[int],
    network: Network,
    cache: KVCache,
    positions: Tensor,
) -> None:
    """Put right the canvases that this step finished, row by row, and what follows them."""
    for place, row in enumerate(output.rows.tolist()):
        if not output.finished[place] or answers[row].finish_reason is not None:
            continue

        def causal(ids: Sequence[int], row: int = row) -> list[int]:
            tokens = torch.tensor([ids], device=network.device)
            own = cache.select(torch.tensor([row], device=network.device))
            places = positions[row : row + 1, : len(ids)]
            hidden = network.encode(tokens, cache=own, positions=places)
            said: list[int] = network.head(hidden)[0].argmax(-1).tolist()
            return said

        draft = output.argmax[place]
        found = answers[row].verified(draft.tolist(), first=follows[row], causal=causal)
        draft.copy_(torch.tensor(found.tokens))
        follows[row] = found.follows

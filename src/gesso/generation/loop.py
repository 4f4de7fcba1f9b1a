"""The reference loop, whole: what every faster path has to equal, event for event.

encode the prompts into the cache
until every row has ended:
    refine the next canvas (diffusion/loop.py), and verify it where that is asked for
    cut it where the answer stops; rows that ended leave
    encode the finished canvases into the cache
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from gesso.cache import KVCache, stack
from gesso.diffusion.draws import Draws, SeededDraws
from gesso.diffusion.loop import StepOutput, denoise_canvas
from gesso.generation.answer import Answer
from gesso.generation.denoiser import NetworkDenoiser
from gesso.generation.events import CanvasEvent, Draft
from gesso.generation.inference import in_inference_mode
from gesso.generation.request import Request
from gesso.generation.verify import Verification
from gesso.model.network import Network
from gesso.processor import Processor


@in_inference_mode
def generate_events(
    network: Network,
    processor: Processor,
    requests: Sequence[Request],
    *,
    draws: Draws | None = None,
) -> Generator[CanvasEvent, None, None]:
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
            for place, row in enumerate(output.rows.tolist()):
                answer = answers[row]
                yield draft(answer, output, place, canvas=canvas)
                if not output.finished[place]:
                    continue
                block = output.argmax[place].tolist()
                if answer.request.config.verify:
                    work = answer.verification(block, first=follows[row])
                    _verify(work, network, cache, positions, answer, row)
                    block, follows[row] = work.tokens, work.follows
                blocks[row] = torch.tensor(block)
                steps = output.step + 1
                yield from finish(answer, block, canvas=canvas, steps=steps, cap=policy.steps)
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


def draft(answer: Answer, output: StepOutput, place: int, *, canvas: int) -> Draft:
    """What a step shows of one of the rows that took it."""
    answer.saw_draft()
    return Draft(
        row=answer.row,
        canvas=canvas,
        step=output.step,
        tokens=output.argmax[place],
        entropy=output.entropy[place],
        accepted=output.accepted[place],
    )


def finish(
    answer: Answer, block: Sequence[int], *, canvas: int, steps: int, cap: int
) -> Generator[CanvasEvent, None, None]:
    """A finished canvas, after so many steps of at most `cap`, and the end if that is one."""
    # A cancelled canvas is dropped: nobody waits for it any more.
    if answer.finish_reason != "cancelled":
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
    work: Verification,
    network: Network,
    cache: KVCache,
    positions: Tensor,
    answer: Answer,
    row: int,
) -> None:
    """Causal passes over the finished canvas of one row, each from its start; the batch's columns
    stay as they are."""
    one = torch.tensor([row], device=network.device)
    while not work.done and not answer.interrupted():
        ids = work.tokens[: work.known] + work.reading
        tokens, places = torch.tensor([ids], device=network.device), positions[one, : len(ids)]
        hidden = network.encode(tokens, cache=cache.select(one), positions=places)
        work.hear(network.head(hidden[:, work.known :])[0].argmax(-1).tolist())
        answer.forwards += 1

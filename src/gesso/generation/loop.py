"""The reference loop, whole: what every faster path has to equal, event for event.

encode the prompts into the cache
until every row has ended:
    refine the next canvas (diffusion/loop.py)
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
    cache = stack([_prefill(network, request.prompt_ids) for request in requests])
    ends = torch.tensor([len(request.prompt_ids) for request in requests], device=device)
    canvas = 0
    while answers:
        positions = ends[:, None] + torch.arange(length, device=device)  # (B, L)
        blocks = torch.empty_like(positions)

        def interrupt(rows: Tensor, answers: list[Answer] = answers) -> Tensor:
            return torch.tensor([answers[i].interrupted() for i in rows.tolist()], device=device)

        denoiser = NetworkDenoiser(network, cache, positions)
        for output in denoise_canvas(denoiser, draws, policy, canvas=canvas, interrupt=interrupt):
            blocks[output.rows] = output.argmax
            yield from step_events(output, answers, canvas=canvas, cap=policy.steps)
        going = [i for i, answer in enumerate(answers) if answer.finish_reason is None]
        if not going:
            return
        if len(going) < len(answers):
            rows = torch.tensor(going, device=device)
            answers = [answers[i] for i in going]
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


def _prefill(network: Network, prompt_ids: Sequence[int]) -> KVCache:
    """Encode one prompt by itself: nothing is padded, so no other prompt can touch a bit of it."""
    cache = network.new_cache(batch_size=1)
    network.encode(torch.tensor([prompt_ids], device=network.device), cache=cache)
    return cache

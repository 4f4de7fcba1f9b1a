"""The same weights as an ordinary left-to-right model: the encoder's causal pass, token by token.

The baseline that a canvas has to beat, in speed and in accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Generator

import torch

from gesso.generation.answer import Answer
from gesso.generation.events import Commit, End
from gesso.generation.inference import in_inference_mode
from gesso.generation.request import Request
from gesso.model.network import Network
from gesso.processor import Processor


@in_inference_mode
def generate_autoregressive(
    network: Network, processor: Processor, request: Request
) -> Generator[Commit | End, None, None]:
    """Greedy decoding; every token is a commit of its own, and one forward."""
    answer = Answer(0, request, processor, time.perf_counter())
    cache = network.new_cache(batch_size=1)
    ids = torch.tensor([request.prompt_ids], device=network.device)
    place = 0
    while answer.finish_reason is None:
        hidden = network.encode(ids, cache=cache)
        ids = network.head(hidden[:, -1:]).argmax(-1)  # (1, 1)
        answer.forwards += 1
        answer.interrupted()
        # As with canvases: out of time, what is there counts; cancelled, nobody waits for it.
        if answer.finish_reason != "cancelled":
            yield answer.commit(ids[0].tolist(), canvas=place, steps=1, capped=False)
            place += 1
    yield answer.end()

"""Token by token: against greedy decoding that encodes everything anew at each step."""

import threading
from dataclasses import replace

import pytest
import torch

from gesso.generation.events import Commit, End
from gesso.generation.model import DiffusionGemma

PROMPTS = ["<bos>a", "<bos>seven words are longer than the window"]


def naive(dg: DiffusionGemma, prompt: str, count: int) -> list[int]:
    ids = dg.processor.encode_prompt(prompt, raw=True)
    start = len(ids)
    for _ in range(count):
        cache = dg.network.new_cache(batch_size=1)
        hidden = dg.network.encode(torch.tensor([ids]), cache=cache)
        ids.append(int(dg.network.head(hidden[0, -1]).argmax()))
    return ids[start:]


def events_of(dg: DiffusionGemma, prompt: str = PROMPTS[1], **keys) -> list:
    keys = dict(ignore_stop_tokens=True) | keys
    events = list(dg.stream(prompt, raw=True, mode="autoregressive", **keys))
    assert isinstance(events[-1], End)
    assert all(isinstance(event, Commit) for event in events[:-1])
    result = events[-1].result
    assert "".join(event.text for event in events) == result.text
    assert tuple(i for event in events[:-1] for i in event.token_ids) == result.token_ids
    assert all(len(event.token_ids) == 1 for event in events[:-1])
    return events


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy(dg: DiffusionGemma, prompt: str) -> None:
    """Past the window too."""
    result = events_of(dg, prompt, max_new_tokens=9)[-1].result
    assert list(result.token_ids) == naive(dg, prompt, 9)
    assert result.finish_reason == "length"
    assert result.stats.forwards == 9
    assert result.stats.tokens_per_forward == 1.0


def test_generate_takes_the_mode_and_no_seed_matters(dg: DiffusionGemma) -> None:
    keys = dict(raw=True, mode="autoregressive", max_new_tokens=4, ignore_stop_tokens=True)
    results = [dg.generate(PROMPTS[0], seed=seed, **keys) for seed in (0, 1)]
    assert results[0].token_ids == results[1].token_ids
    assert results[0].token_ids == tuple(naive(dg, PROMPTS[0], 4))


def test_a_stop_token(dg: DiffusionGemma) -> None:
    ids = naive(dg, PROMPTS[1], 6)
    dg.generation = replace(dg.generation, eos_token_ids=(ids[3],))
    result = events_of(dg, max_new_tokens=6, ignore_stop_tokens=False)[-1].result
    assert list(result.token_ids) == ids[: ids.index(ids[3]) + 1]
    assert result.finish_reason == "stop"


def test_a_stop_string(dg: DiffusionGemma) -> None:
    text = events_of(dg, max_new_tokens=6)[-1].result.text
    stop = text[2:6]
    result = events_of(dg, max_new_tokens=6, stop=stop)[-1].result
    assert (result.text, result.finish_reason) == (text[: text.find(stop)], "stop")


def test_out_of_time_keeps_the_token_in_work_and_cancelling_drops_it(dg: DiffusionGemma) -> None:
    """As with canvases: a budget always gives something."""
    result = events_of(dg, max_new_tokens=6, time_budget=1e-9)[-1].result
    assert (list(result.token_ids), result.finish_reason) == (naive(dg, PROMPTS[1], 1), "time")
    cancelled = threading.Event()
    cancelled.set()
    result = events_of(dg, max_new_tokens=6, cancelled=cancelled)[-1].result
    assert (result.token_ids, result.finish_reason) == ((), "cancelled")
    assert result.stats.forwards == 1


def test_there_is_no_canvas_to_verify(dg: DiffusionGemma) -> None:
    with pytest.raises(ValueError, match="verify: got True with the mode 'autoregressive'"):
        dg.stream(PROMPTS[0], raw=True, mode="autoregressive", verify=True)
    dg.stream(PROMPTS[0], raw=True, mode="autoregressive", verify=False)

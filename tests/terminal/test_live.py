"""The show: the right answer, the model's own times, and Ctrl-C."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from rich.console import Console

from gesso.generation.events import CanvasEvent, Commit, Draft, End, Result, Statistics
from gesso.generation.model import DiffusionGemma
from gesso.generation_config import GenerationConfig
from gesso.model.network import Network
from gesso.processor import Processor
from gesso.terminal.live import show
from tests.terminal.conftest import Terminal


@pytest.fixture
def model(make_network: Callable[..., Network], processor: Processor) -> DiffusionGemma:
    vocabulary = processor.tokenizer.vocab_size
    generation = GenerationConfig(max_new_tokens=10, max_denoising_steps=3)
    return DiffusionGemma(make_network(vocab_size=vocabulary), processor, generation)


@pytest.mark.parametrize("mode", ["diffusion", "autoregressive"])
def test_the_answer_is_that_of_generate(
    model: DiffusionGemma, terminal: Terminal, mode: Any
) -> None:
    shown = show(model, "3 boxes", console=Console(file=terminal), watch=0.0, mode=mode, seed=5)
    plain = model.generate("3 boxes", mode=mode, seed=5)
    assert (shown.text, shown.token_ids) == (plain.text, plain.token_ids)
    last = terminal.getvalue().rstrip().splitlines()[-1]
    assert "10 tokens" in last
    assert ("steps" in last) == (mode == "diffusion")


def test_holding_drafts_does_not_slow_the_model_down(
    model: DiffusionGemma, terminal: Terminal
) -> None:
    started = time.perf_counter()
    result = show(model, "3 boxes", console=Console(file=terminal), watch=0.25)
    assert len(result.stats.steps) == 2
    # Six drafts are held; what the model says it took holds none of that.
    assert time.perf_counter() - started >= result.stats.seconds + 0.5


def test_a_mistake_is_raised_before_anything_is_drawn(
    model: DiffusionGemma, terminal: Terminal
) -> None:
    with pytest.raises(ValueError, match="seed"):
        show(model, "3 boxes", console=Console(file=terminal), watch=0.0, seed=-1)
    assert terminal.getvalue() == ""


def scripted(processor: Processor, events: Callable[..., Iterator[CanvasEvent]]) -> DiffusionGemma:
    fake = SimpleNamespace(
        processor=processor,
        generation=GenerationConfig(),
        stream=lambda prompt, **options: events(options["cancelled"]),
    )
    return cast(DiffusionGemma, fake)


def test_ctrl_c_cancels_and_shows_what_there_is(
    processor: Processor, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def events(cancelled: threading.Event) -> Iterator[CanvasEvent]:
        ids = torch.tensor([5, 6])
        yield Draft(row=0, canvas=0, step=0, tokens=ids, entropy=ids * 0.1, accepted=ids > 0)
        assert cancelled.wait(20), "nobody cancelled"
        yield End(row=0, text="", result=_result("so far"))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gesso.terminal.live.time.sleep", interrupt)
    result = show(scripted(processor, events), "x", console=Console(file=terminal), watch=9.0)
    assert result.finish_reason == "cancelled"
    assert "so far" in terminal.getvalue()


def test_a_failure_in_the_model_reaches_the_caller(
    processor: Processor, terminal: Terminal
) -> None:
    def events(cancelled: threading.Event) -> Iterator[CanvasEvent]:
        yield Commit(row=0, canvas=0, token_ids=(5,), text="", steps=1, forwards=1)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        show(scripted(processor, events), "x", console=Console(file=terminal), watch=0.0)


def _result(text: str) -> Result:
    stats = Statistics(
        prompt_tokens=1,
        new_tokens=0,
        steps=(),
        hit_step_cap=(),
        forwards=1,
        seconds=0.1,
        first_draft_seconds=None,
        first_commit_seconds=None,
    )
    return Result(
        text=text,
        reasoning="",
        tool_calls=(),
        token_ids=(),
        finish_reason="cancelled",
        stats=stats,
    )

"""Verified canvases: what left-to-right decoding writes, token for token."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gesso
from gesso.generation.events import Draft, End
from gesso.generation.model import DiffusionGemma
from gesso.generation.verify import Verification
from gesso.tasks import get_task

PROMPTS = ["<bos>a", "<bos>seven words are longer than the window", "<bos>b c"]


def after(history: Sequence[int]) -> int:
    """A causal model of eight tokens, whose next one hangs on all before it."""
    return hash(tuple(history)) % 8


def greedy(count: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < count:
        ids.append(after(ids))
    return ids


def verified(draft: Sequence[int], **keys: Any) -> tuple[Verification, list[int]]:
    """By the model above, asked for all places at once; and what each pass read."""
    work, lengths = Verification(draft, first=after([]), **dict(stop_ids=(), limit=30) | keys), []
    while not work.done:
        known, ids = work.tokens[: work.known], work.reading
        lengths.append(len(ids))
        work.hear([after([*known, *ids[: place + 1]]) for place in range(len(ids))])
    return work, lengths


drafts = st.lists(st.integers(0, 7), min_size=1, max_size=24)


@given(drafts, st.integers(1, 30))
def test_any_draft_ends_at_the_greedy_answer(draft: list[int], limit: int) -> None:
    work, lengths = verified(draft, limit=limit)
    end = min(limit, len(draft))
    assert work.tokens[:end] == greedy(end)
    assert len(work.tokens) == len(draft)
    assert work.follows == greedy(end + 1)[-1]
    assert len(lengths) <= end + 1
    # Nothing is read twice that was found right.
    assert lengths[0] == end
    assert all(later <= before for before, later in itertools.pairwise(lengths))
    assert work.known == end


@given(drafts, st.sets(st.integers(0, 7), max_size=3))
def test_nothing_behind_a_stop_counts(draft: list[int], stops: set[int]) -> None:
    work, _ = verified(draft, stop_ids=stops)
    wanted = greedy(len(draft))
    end = next((place + 1 for place, token in enumerate(wanted) if token in stops), len(draft))
    assert work.tokens[:end] == wanted[:end]


def test_a_right_draft_takes_one_pass_and_one_slip_of_the_pen_two() -> None:
    right = greedy(12)
    for draft, passes in ((right, [12]), ([*right[:-1], right[-1] ^ 1], [12, 1])):
        work, lengths = verified(draft)
        assert (work.tokens, lengths) == (right, passes)


# What a model writes left to right, and over and over a 50 between.
RIGHT = [50 if place % 5 == 0 else place for place in range(30)]


@pytest.mark.parametrize(
    ("draft", "passes"),
    [
        ([*RIGHT[:15], 99, *RIGHT[15:29]], 2),  # one too many: of all 50 it is the nearest
        ([*RIGHT[:9], *RIGHT[10:], 99], 3),  # one too few: 9 is found nowhere, 50 a place before
        ([*RIGHT[:5], 98, 99, *RIGHT[5:20], *RIGHT[23:], 99], 6),  # two more, then three less
    ],
)
def test_what_stands_places_off_is_found_again(draft: list[int], passes: int) -> None:
    """By a model that says 97 where what it read was wrong."""
    work, taken = Verification(draft, first=RIGHT[0], stop_ids=(), limit=29), 0
    while not work.done:
        said, seen = [], work.tokens[: work.known]
        for token in work.reading:
            seen = [*seen, token]
            said.append(RIGHT[len(seen)] if seen == RIGHT[: len(seen)] else 97)
        work.hear(said)
        taken += 1
    assert (work.tokens[:29], taken) == (RIGHT[:29], passes)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("count", [3, 5, 14])
def test_the_answer_of_the_autoregressive_mode(dg: DiffusionGemma, prompt: str, count: int) -> None:
    """Over several canvases of five, past the window, and cut within one."""
    keys = dict(raw=True, max_new_tokens=count, ignore_stop_tokens=True)
    wanted = dg.generate(prompt, mode="autoregressive", **keys)
    draft = dg.generate(prompt, max_denoising_steps=2, **keys)
    events = list(dg.stream(prompt, max_denoising_steps=2, verify=True, **keys))
    assert isinstance(events[-1], End)
    result = events[-1].result
    assert result.token_ids == wanted.token_ids != draft.token_ids
    assert result.text == wanted.text == "".join(getattr(event, "text", "") for event in events)
    steps = sum(isinstance(event, Draft) for event in events)
    canvases = len(result.stats.steps)
    assert steps + canvases <= result.stats.forwards <= steps + canvases + count


def test_a_stop_token_ends_it_where_the_causal_pass_writes_one(dg: DiffusionGemma) -> None:
    keys = dict(raw=True, max_new_tokens=14, max_denoising_steps=2)
    whole = dg.generate(PROMPTS[1], mode="autoregressive", ignore_stop_tokens=True, **keys)
    stop = whole.token_ids[7]
    dg.generation = replace(dg.generation, eos_token_ids=(stop,))
    result = dg.generate(PROMPTS[1], verify=True, **keys)
    assert result.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
    assert result.finish_reason == "stop"
    assert dg.generate(PROMPTS[1], **keys).token_ids != result.token_ids


def test_by_default_as_the_checkpoint_says(dg: DiffusionGemma) -> None:
    keys = dict(raw=True, max_new_tokens=12, max_denoising_steps=2)
    drafts, wanted = (dg.generate(PROMPTS[1], verify=on, **keys).token_ids for on in (False, True))
    assert dg.generate(PROMPTS[1], **keys).token_ids == drafts != wanted
    dg.generation = replace(dg.generation, verify=True)
    assert dg.generate(PROMPTS[1], **keys).token_ids == wanted
    assert dg.generate(PROMPTS[1], verify=False, **keys).token_ids == drafts
    # Token by token there is nothing to verify, and nobody asked for it.
    assert dg.generate(PROMPTS[1], mode="autoregressive", **keys).token_ids == wanted


def test_in_company_as_alone(dg: DiffusionGemma) -> None:
    keys = dict(raw=True, max_new_tokens=12, max_denoising_steps=2, verify=True)
    results = dg.generate_batch(PROMPTS, seeds=[3, 4, 5], **keys)
    for prompt, seed, result in zip(PROMPTS, (3, 4, 5), results, strict=True):
        alone = dg.generate(prompt, seed=seed, **keys)
        assert result.token_ids == alone.token_ids
        assert result.stats.forwards == alone.stats.forwards


def test_who_has_no_time_or_nobody_waiting_gets_no_pass(dg: DiffusionGemma) -> None:
    keys = dict(raw=True, max_new_tokens=5, max_denoising_steps=3, ignore_stop_tokens=True)
    late = dg.generate(PROMPTS[1], verify=True, time_budget=1e-9, **keys)
    assert late.finish_reason == "time"
    assert late.stats.forwards == 1
    cancelled = threading.Event()
    cancelled.set()
    gone = list(dg.stream(PROMPTS[1], verify=True, cancelled=cancelled, **keys))[-1]
    assert isinstance(gone, End)
    assert gone.result.stats.forwards <= 1


def test_sentences() -> None:
    """With weights that know something, compiled where there is a compiler."""
    tiny, compiled = gesso.load("tiny"), gesso.load("tiny", compile="auto")
    examples = itertools.islice(get_task("extract").examples(split="names", seed=5), 8)
    forwards = length = 0
    for example in examples:
        wanted = tiny.generate(example.prompt, mode="autoregressive").token_ids
        for model in (tiny, compiled):
            result = model.generate(example.prompt, verify=True)
            assert result.token_ids == wanted
            forwards, length = forwards + result.stats.forwards, length + len(wanted)
    assert forwards < length / 2

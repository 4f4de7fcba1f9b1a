"""The reference loop over a small random network: batches, lengths, stops, budgets, events."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gesso.cache import stack as STACK
from gesso.generation.answer import Answer
from gesso.generation.events import Commit, Draft, End, Result
from gesso.generation.model import DiffusionGemma
from gesso.generation.request import Parameters, make_request
from gesso.processor import Processor
from gesso.processor.parse import Reply

L = 5  # the canvas length of the small network
STEPS = 3
# Shorter and longer than the window of 6, and than one another.
PROMPTS = [
    "<bos>a",
    "<bos>a name",
    "<bos>seven words are longer than the window",
    "<bos>" + "x " * 40,
]


def plain(result: Result) -> tuple:
    """All of a result but the times."""
    stats = result.stats
    return (
        result.text, result.token_ids, result.finish_reason, stats.steps, stats.hit_step_cap,
        stats.forwards, stats.prompt_tokens, stats.new_tokens,
    )  # fmt: skip


def events_of(dg: DiffusionGemma, prompt: str = "<bos>a name", **keys) -> list:
    events = list(dg.stream(prompt, raw=True, **({"ignore_stop_tokens": True} | keys)))
    check_events(events)
    return events


def answer_of(dg: DiffusionGemma, prompt: str = "<bos>a name", **keys) -> Result:
    return events_of(dg, prompt, **keys)[-1].result


def check_events(events: list) -> None:
    """Draft.. Commit .. End; whatever was asked for, what is streamed joins to the result."""
    ends = [event for event in events if isinstance(event, End)]
    assert [type(events[-1]), len(ends)] == [End, 1]
    result, commits = ends[0].result, [e for e in events if isinstance(e, Commit)]
    assert "".join(c.text for c in commits) + ends[0].text == result.text
    assert tuple(i for c in commits for i in c.token_ids) == result.token_ids
    assert [c.canvas for c in commits] == list(range(len(commits)))
    stats = result.stats
    assert stats.steps == tuple(c.steps for c in commits)
    drafts = [e for e in events if isinstance(e, Draft)]
    assert stats.forwards == len(drafts)
    assert stats.new_tokens == len(result.token_ids)
    canvas = step = 0
    for event in events[:-1]:
        assert event.canvas == canvas
        if isinstance(event, Draft):
            assert event.step == step
            assert len(event.tokens) == len(event.entropy) == len(event.accepted) == L
            draft, step = event, step + 1
        else:
            assert event.steps == step
            assert 0 < len(event.token_ids) <= L
            assert event.token_ids == tuple(draft.tokens.tolist())[: len(event.token_ids)]
            canvas, step = canvas + 1, 0
    if result.finish_reason != "cancelled":
        assert step == 0
        assert len(drafts) == sum(stats.steps)
    assert 0 <= stats.first_draft_seconds <= stats.seconds
    if commits:
        assert stats.first_draft_seconds <= stats.first_commit_seconds <= stats.seconds


# Batches.


@pytest.mark.parametrize("first_seed", range(6))
def test_each_row_of_a_batch_is_what_it_is_alone(dg: DiffusionGemma, first_seed: int) -> None:
    """Adaptive stop loosened so that rows leave the canvas at different steps."""
    seeds = [first_seed + 2**33 * row for row in range(4)]
    keys = dict(max_new_tokens=2 * L + 1, max_denoising_steps=4, confidence=7.0, stability=0)
    together = dg.generate_batch(PROMPTS, seeds=seeds, raw=True, **keys)
    for prompt, seed, result in zip(PROMPTS, seeds, together, strict=True):
        assert plain(result) == plain(dg.generate(prompt, raw=True, seed=seed, **keys))


def test_rows_of_a_batch_end_at_different_canvases(dg: DiffusionGemma) -> None:
    """A stop that only some rows meet: the others go on as if nothing had been there."""
    alone = [answer_of(dg, p, seed=i, max_new_tokens=3 * L) for i, p in enumerate(PROMPTS)]
    stop_id = alone[1].token_ids[2]
    dg.generation = replace(dg.generation, eos_token_ids=(stop_id, alone[2].token_ids[L + 1]))
    keys = dict(max_new_tokens=3 * L)
    together = dg.generate_batch(PROMPTS, seeds=range(4), raw=True, **keys)
    for row, (prompt, result) in enumerate(zip(PROMPTS, together, strict=True)):
        assert plain(result) == plain(dg.generate(prompt, raw=True, seed=row, **keys))
    assert len({len(r.token_ids) for r in together}) >= 3


def test_the_same_prompts_with_one_seed_are_the_same(dg: DiffusionGemma) -> None:
    """And by default all take the parameter `seed`."""
    results = dg.generate_batch([PROMPTS[1]] * 2, raw=True, seed=9, max_new_tokens=4)
    assert plain(results[0]) == plain(results[1])
    assert plain(results[0]) == plain(dg.generate(PROMPTS[1], raw=True, seed=9, max_new_tokens=4))
    other = dg.generate(PROMPTS[1], raw=True, seed=9 + 2**32, max_new_tokens=4)
    assert other.token_ids != results[0].token_ids


# Where an answer ends.


@pytest.mark.parametrize("count", [1, L - 1, L, L + 1, 2 * L + 3])
def test_max_new_tokens_is_honoured_exactly(dg: DiffusionGemma, count: int) -> None:
    longest = answer_of(dg, max_new_tokens=3 * L)
    result = answer_of(dg, max_new_tokens=count)
    assert result.token_ids == longest.token_ids[:count]
    assert result.finish_reason == "length"
    assert result.stats.steps == (STEPS,) * -(-count // L)
    assert result.stats.hit_step_cap == (True,) * -(-count // L)


@pytest.mark.parametrize("place", [0, 3, L - 1, L, 2 * L + 1])
def test_cut_behind_the_first_stop_token(dg: DiffusionGemma, place: int) -> None:
    free = answer_of(dg, max_new_tokens=3 * L)
    stop_id = free.token_ids[place]
    place = free.token_ids.index(stop_id)
    dg.generation = replace(dg.generation, eos_token_ids=(1, stop_id))
    result = answer_of(dg, max_new_tokens=3 * L, ignore_stop_tokens=False)
    assert result.token_ids == free.token_ids[: place + 1]
    assert result.finish_reason == "stop"
    assert len(result.stats.steps) == place // L + 1
    ignored = answer_of(dg, max_new_tokens=3 * L, ignore_stop_tokens=True)
    assert plain(ignored) == plain(free)


def test_a_stop_token_at_the_very_end_is_a_stop(dg: DiffusionGemma) -> None:
    free = answer_of(dg, max_new_tokens=4)
    dg.generation = replace(dg.generation, eos_token_ids=(free.token_ids[-1],))
    result = answer_of(dg, max_new_tokens=4, ignore_stop_tokens=False)
    assert result.finish_reason == "stop"


# Stop strings.


def test_a_stop_string_inside_a_canvas_across_two_and_at_the_start(dg: DiffusionGemma) -> None:
    keys = dict(seed=0, max_new_tokens=2 * L)
    while "\ufffd" in (free := answer_of(dg, **keys)).text:
        keys["seed"] += 1  # half a character reads differently when it is the end
    first = dg.processor.parse(free.token_ids[:L]).text
    assert len(free.text) > len(first) > 6
    for begin, end in (
        (0, 1),
        (0, 3),
        (3, 5),
        (len(first) - 2, len(first)),
        (len(first) - 1, len(first) + 1),
        (len(first) - 2, len(first) + 2),
        (len(first), len(first) + 2),
    ):
        stop = free.text[begin:end]
        result = answer_of(dg, stop=[stop], **keys)
        assert result.finish_reason == "stop"
        assert result.token_ids == free.token_ids[: len(result.token_ids)]
        assert result.text == free.text[: free.text.find(stop)]
        # No token more than it takes to spell the stop string.
        reading = dg.processor.parse(free.token_ids[: len(result.token_ids) - 1]).text
        assert stop not in reading


def test_what_is_kept_with_a_stop_string_does_not_depend_on_the_canvases(
    dg: DiffusionGemma,
) -> None:
    """Here it is inside a call that never closes: text only once no token will follow."""
    ids = spell(dg, "a<|tool_call>call: b c d")
    ends = [list(fold(dg, ids, size=size, stop="b"))[-1] for size in (1, 2, len(ids))]
    assert {end.result.token_ids for end in ends} == {tuple(ids)}


def test_an_early_stop_string_costs_few_readings(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = dict(max_new_tokens=500, ignore_stop_tokens=True)
    free = answer_of(dg, **keys)
    readings, parse = list[int](), Processor.parse

    def counted(processor: Processor, ids: Sequence[int]) -> Reply:
        readings.append(len(ids))
        return parse(processor, ids)

    monkeypatch.setattr(Processor, "parse", counted)
    stop = free.text[3:6]
    *_, end = fold(dg, free.token_ids, size=500, stop=[stop])
    assert end.result.text == free.text[: free.text.find(stop)]
    assert len(readings) < 15


def test_a_stop_string_that_never_completes_is_shown_at_last(dg: DiffusionGemma) -> None:
    free = answer_of(dg, max_new_tokens=2 * L)
    first = dg.processor.parse(free.token_ids[:L]).text
    for stop in (free.text[-3:] + "\0", first[-4:] + "\0", free.text + "\0"):
        events = events_of(dg, stop=stop, max_new_tokens=2 * L)
        assert plain(events[-1].result) == plain(free)
    commits = [e for e in events if isinstance(e, Commit)]
    assert [c.text for c in commits] == ["", ""]  # all of it could have been the stop string
    assert events[-1].text == free.text


@given(data=st.data(), seed=st.integers(0, 2))
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_stop_strings_of_the_answers_own_text(dg: DiffusionGemma, data, seed: int) -> None:
    """The answer is fed to the bookkeeping alone: the same tokens, no network."""
    free = cached_answer(dg, seed)
    spans = st.tuples(st.integers(0, len(free.text) - 1), st.integers(1, 8))
    picked = data.draw(st.lists(spans, min_size=1, max_size=3))
    tails = data.draw(st.lists(st.sampled_from(["", "", "\0"]), min_size=3, max_size=3))
    stops = [free.text[at : at + n] + tail for (at, n), tail in zip(picked, tails, strict=False)]
    size = data.draw(st.integers(1, L))
    events = list(fold(dg, free.token_ids, size=size, stop=stops))
    result = events[-1].result
    assert "".join(event.text for event in events) == result.text
    assert tuple(i for e in events[:-1] for i in e.token_ids) == result.token_ids
    assert not any(s in result.text for s in stops)
    if not any(s in free.text for s in stops):
        assert (result.text, result.finish_reason) == (free.text, "length")
    else:
        # The one that is whole first, wherever canvases end.
        _, at = min(
            (free.text.find(s) + len(s), free.text.find(s)) for s in stops if s in free.text
        )
        assert (result.text, result.finish_reason) == (free.text[:at], "stop")


_answers: dict[int, Result] = {}


def cached_answer(dg: DiffusionGemma, seed: int) -> Result:
    if seed not in _answers:
        _answers[seed] = answer_of(dg, seed=seed, max_new_tokens=4 * L)
    return _answers[seed]


def fold(dg: DiffusionGemma, ids, *, size: int = L, **keys) -> Iterator[Commit | End]:
    """Canvases of given tokens through an answer, as the loop hands them over."""
    parameters = Parameters(max_new_tokens=len(ids), ignore_stop_tokens=True, **keys)
    request = make_request(
        [2], parameters, model=dg.network.config, defaults=replace(dg.generation)
    )
    answer = Answer(0, request, dg.processor, 0.0)
    for canvas, at in enumerate(range(0, len(ids), size)):
        yield answer.commit(ids[at : at + size], canvas=canvas, steps=1, capped=False)
        if answer.finish_reason is not None:
            break
    yield answer.end()


def spell(dg: DiffusionGemma, *parts: str | bytes) -> list[int]:
    """Tokens of texts (special ones recognised), and byte tokens of bytes."""
    tokenizer, ids = dg.processor.tokenizer, []
    for part in parts:
        if isinstance(part, str):
            ids += tokenizer.encode(part, specials=True)
        else:
            ids += [tokenizer.id(f"<0x{byte:02X}>") for byte in part]
    return ids


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize(
    "parts",
    [
        ["price ", "10 €".encode(), " and ", "é".encode()],
        ["ends in half a character ", "€".encode()[:2]],
        ["so <|channel>thought\nhm<channel|>yes"],
        ["so <|channel>thought\nnever ends"],
        ['a<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>b'],
        ['a<|tool_call>call:f{a:<|"|>x<tool_call|>y<|"|>}<tool_call|>b'],
        ['a<|tool_call>call:f{a:<|"|>x<tool_call|>y'],
        ['a<|tool_call>no call<|"|><|tool_call>call:f{a:<|"|>x<tool_call|>y<|"|>}<tool_call|>b'],
        ["a<|tool_call>call:f{}<|tool_call>call:f{}<tool_call|>b"],
        ["a<|tool_call>call:f{}"],
        ["a<tool_call|><channel|>b<|channel>c"],
    ],
    ids=str,
)
def test_streamed_text_is_never_taken_back(dg: DiffusionGemma, parts: list, size: int) -> None:
    """However the canvases cut an answer with reasoning, calls and split characters."""
    ids = spell(dg, *parts)
    events = list(fold(dg, ids, size=size))
    result = events[-1].result
    reply = dg.processor.parse(ids)
    assert "".join(event.text for event in events) == result.text == reply.text
    assert (result.reasoning, result.tool_calls) == (reply.reasoning, reply.tool_calls)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize("tail", ["", "more"])
def test_a_stop_string_in_byte_tokens(dg: DiffusionGemma, size: int, tail: str) -> None:
    """Also at the very end, where no later token settles them."""
    ids = spell(dg, "a ", "é€".encode(), tail)
    result = list(fold(dg, ids, size=size, stop="€"))[-1].result
    assert (result.text, result.finish_reason) == ("a é", "stop")
    assert len(result.token_ids) <= len(spell(dg, "a ", "é€".encode())) + (1 if tail else 0)


# Time and cancellation.


def test_a_tiny_time_budget_gives_one_whole_canvas_after_one_step(dg: DiffusionGemma) -> None:
    free = events_of(dg, max_new_tokens=2 * L)
    result = answer_of(dg, max_new_tokens=2 * L, time_budget=1e-9)
    assert result.finish_reason == "time"
    assert result.token_ids == tuple(free[0].tokens.tolist())
    assert (result.stats.steps, result.stats.hit_step_cap) == ((1,), (False,))


def test_a_large_time_budget_changes_nothing(dg: DiffusionGemma) -> None:
    assert plain(answer_of(dg, max_new_tokens=7, time_budget=1e6)) == plain(
        answer_of(dg, max_new_tokens=7)
    )


def test_max_new_tokens_also_cuts_what_time_ended(dg: DiffusionGemma) -> None:
    result = answer_of(dg, max_new_tokens=2, time_budget=1e-9)
    assert (len(result.token_ids), result.finish_reason) == (2, "time")


def test_cancelled_before_the_start(dg: DiffusionGemma) -> None:
    cancelled = threading.Event()
    cancelled.set()
    result = answer_of(dg, max_new_tokens=2 * L, cancelled=cancelled)
    assert (result.finish_reason, result.token_ids, result.text) == ("cancelled", (), "")
    assert result.stats.steps == ()
    assert result.stats.tokens_per_forward == 0.0
    assert result.stats.first_commit_seconds is None


@pytest.mark.parametrize("after", [1, STEPS + 2, 2 * STEPS + 2])
def test_cancelled_in_mid_canvas(dg: DiffusionGemma, after: int) -> None:
    """Committed canvases stay, the one in work is dropped, its passes are counted."""
    free = events_of(dg, max_new_tokens=4 * L)
    cancelled, events = threading.Event(), []
    for event in dg.stream(
        "<bos>a name", raw=True, ignore_stop_tokens=True, max_new_tokens=4 * L, cancelled=cancelled
    ):
        events.append(event)
        if len(events) == after:
            cancelled.set()
    check_events(events)
    result = events[-1].result
    assert result.finish_reason == "cancelled"
    committed = sum(isinstance(e, Commit) for e in free[:after])
    assert result.token_ids == free[-1].result.token_ids[: committed * L]
    assert result.stats.forwards < sum(free[-1].result.stats.steps)


# The cache.


def encoded(dg: DiffusionGemma, ids) -> list[tuple[torch.Tensor, torch.Tensor]]:
    cache = dg.network.new_cache(batch_size=1)
    with torch.inference_mode():
        dg.network.encode(torch.tensor([list(ids)]), cache=cache)
    return [cache.layer(i) for i in range(dg.network.config.text.num_layers)]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_committed_canvas_is_as_if_it_had_been_in_the_prompt(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    from gesso.generation import loop

    stacked = []
    monkeypatch.setattr(loop, "stack", lambda c: stacked.append(STACK(c)) or stacked[-1])
    result = answer_of(dg, prompt, max_new_tokens=3 * L)
    prompt_ids = dg.processor.encode_prompt(prompt, raw=True)
    # The last canvas is not encoded: nobody reads it.
    committed = [*prompt_ids, *result.token_ids[: 2 * L]]
    assert stacked[0].length == len(committed)
    assert stacked[0].mask is None
    for layer, expected in enumerate(encoded(dg, committed)):
        for got, want in zip(stacked[0].layer(layer), expected, strict=True):
            # Two passes instead of one: the rounding of sums of 40 products of about 1.
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_generator_left_half_way_harms_nothing(dg: DiffusionGemma) -> None:
    before = {k: v.clone() for k, v in dg.network.state_dict().items()}
    expected = plain(answer_of(dg, max_new_tokens=2 * L))
    for count in (1, STEPS + 1, STEPS + 2):
        abandoned = dg.stream("<bos>other", raw=True, max_new_tokens=3 * L)
        for _ in range(count):
            next(abandoned)
        assert not torch.is_inference_mode_enabled()
        assert plain(answer_of(dg, max_new_tokens=2 * L)) == expected
        abandoned.close()
    assert all(torch.equal(before[k], v) for k, v in dg.network.state_dict().items())


def test_two_streams_taken_in_turns_do_not_meet(dg: DiffusionGemma) -> None:
    keys = dict(raw=True, max_new_tokens=2 * L, ignore_stop_tokens=True)
    one, two = (dg.stream(p, **keys) for p in PROMPTS[1:3])
    pairs = list(zip(one, two, strict=True))
    for place, prompt in enumerate(PROMPTS[1:3]):
        assert plain(pairs[-1][place].result) == plain(answer_of(dg, prompt, max_new_tokens=2 * L))


def test_a_context_of_the_largest_size_is_filled(dg: DiffusionGemma) -> None:
    """512 columns: a prompt of 502 leaves room for two canvases and no more."""
    ids = [2] + [40] * 501
    assert len(dg.generate_ids(ids, ignore_stop_tokens=True).token_ids) == 10


def test_a_shorter_canvas_is_the_one_of_a_network_that_has_no_longer(dg: DiffusionGemma) -> None:
    ids = [2] + [40] * 501
    short = dg.generate_ids(ids, canvas_length=3, ignore_stop_tokens=True)
    small = replace(dg.network.config, canvas_length=3)
    dg.network.config = small
    assert plain(short) == plain(dg.generate_ids(ids, ignore_stop_tokens=True))
    assert short.stats.new_tokens == 9

"""The engine against the reference loop: whatever shares a step, every request's own events."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gesso.diffusion.loop import advance
from gesso.engine import Engine
from gesso.engine.prefix import Prefix
from gesso.generation.denoiser import NetworkDenoiser
from gesso.generation.events import End
from gesso.generation.model import DiffusionGemma
from gesso.model.compiled import CompiledPasses
from tests.compiler import needs_compiler
from tests.engine.schedules import L, Plan, alone, plans, together


@pytest.fixture(autouse=True)
def prefixes_of_short_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of these tests would hardly share a block."""
    monkeypatch.setattr("gesso.engine.prefix._BLOCK", 2)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    plans=st.lists(plans, min_size=1, max_size=5),
    max_rows=st.integers(1, 4),
    chunk=st.sampled_from([3, 7, 64]),
)
def test_every_request_gets_what_it_gets_alone(
    dg: DiffusionGemma, plans: list[Plan], max_rows: int, chunk: int
) -> None:
    """Over schedules of arrivals, lengths, policies, stops, cancellations and shared beginnings."""
    engine = Engine(dg, max_rows=max_rows, chunk=chunk)
    for found, plan in zip(together(engine, plans), plans, strict=True):
        assert found == alone(dg, plan)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plans=st.lists(plans, min_size=1, max_size=4), chunk=st.sampled_from([3, 64]))
@pytest.mark.parametrize(
    "way", ["keys and values in FP8", pytest.param("compiled passes", marks=needs_compiler)]
)
def test_other_ways(dg: DiffusionGemma, way: str, plans: list[Plan], chunk: int) -> None:
    if way == "compiled passes":
        dg.network.compiled = CompiledPasses(dg.network)
    else:
        dg.network.kv_cache_dtype = torch.float8_e4m3fn
    engine = Engine(dg, max_rows=3, chunk=chunk)
    for found, plan in zip(together(engine, plans), plans, strict=True):
        assert found == alone(dg, plan)


def test_what_prompts_share_is_encoded_once(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = count_encoded(dg, monkeypatch)
    engine = Engine(dg, chunk=8)
    beginning = [0, 1] * 16

    def answer(*end: int, **keys: Any) -> int:
        encoded.clear()
        plan = Plan(
            words=[*beginning, *end], arrives=0, gives_up=None, keys=dict(max_new_tokens=1, **keys)
        )
        (found,) = together(engine, [plan])
        prompt, said = sum(encoded), alone(dg, plan)
        assert found == said
        return prompt

    whole = answer(2, 2)
    assert whole > 32
    assert answer(2, 2, seed=5) == 0
    # Another ending: back to the mark that the last whole chunk left, never to the beginning.
    assert 0 < answer(2, 0, 1) <= 8 + 6
    assert answer(2, 2, seed=6) == 0


def test_a_turn_that_goes_on_does_not_cost_others_what_they_share(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation replaces its own beginning; where that could be cut, it still can be."""
    encoded = count_encoded(dg, monkeypatch)
    engine = Engine(dg, chunk=8)
    for ids in ([*range(40, 56)], [*range(40, 56), *range(60, 80)], [*range(40, 56), 90, 91]):
        encoded.clear()
        engine.submit_request(dg_request(dg, ids, max_new_tokens=1))
        list(engine.run())
    assert len(engine.prefixes) == 2
    assert sum(encoded) == 2


def test_answers_leaves_nothing_at_work(dg: DiffusionGemma) -> None:
    """Neither when one of the prompts could never fit, nor when nobody asks for the rest."""
    engine = Engine(dg, chunk=8, max_rows=2)
    room = engine._admission.bytes([60])
    engine = Engine(
        dg, chunk=8, max_rows=2, max_memory=engine.memory.limit - engine.memory.room + room
    )
    with pytest.raises(ValueError, match="shorten the prompt"):
        next(engine.answers(["<bos>a", "<bos>" + "x " * 200], raw=True, max_new_tokens=1))
    assert engine.idle
    some = engine.answers(["<bos>a", "<bos>b", "<bos>c"], raw=True, max_new_tokens=L)
    next(some)
    some.close()
    assert engine.idle
    found = dict(engine.answers(["<bos>b", "<bos>a"], raw=True, max_new_tokens=L))
    assert sorted(found) == [0, 1]


def test_answers_are_those_of_its_own_prompts(dg: DiffusionGemma) -> None:
    """What is submitted meanwhile goes on behind them, or with them."""
    engine = Engine(dg, chunk=8, max_rows=1)
    places = []
    for place, _ in engine.answers(["<bos>a", "<bos>b"], raw=True, max_new_tokens=1):
        places.append(place)
        engine.submit("<bos>c", raw=True, max_new_tokens=1)
    assert places == [0, 1]
    assert not engine.idle


def test_answers_wants_an_engine_at_rest(dg: DiffusionGemma) -> None:
    engine = Engine(dg)
    engine.submit("<bos>a", raw=True)
    with pytest.raises(ValueError, match="other requests are at work"):
        next(engine.answers(["<bos>b"], raw=True))


def test_what_a_loop_left_untold_comes_with_the_next(dg: DiffusionGemma) -> None:
    engine = Engine(dg)
    numbers = [engine.submit("<bos>a", max_new_tokens=1) for _ in range(4)]
    told = [next(event for event in engine.run() if isinstance(event, End)).row]
    assert not engine.idle
    told += [event.row for event in engine.run() if isinstance(event, End)]
    assert told == numbers
    assert engine.idle


def test_answers_keeps_what_is_not_its_own(dg: DiffusionGemma) -> None:
    engine = Engine(dg, max_rows=2)
    places: list[int] = []
    for place, _ in engine.answers(["<bos>a", "<bos>b", "<bos>a b"], max_new_tokens=1):
        if not places:
            late = engine.submit("<bos>b", max_new_tokens=1)
        places.append(place)
    assert sorted(places) == [0, 1, 2]
    (result,) = [event.result for event in engine.run() if isinstance(event, End)]
    assert result.token_ids == alone_ids(dg, "<bos>b")
    assert late == 3


@pytest.mark.parametrize("where", ["encode", "advance"])
def test_an_interruption_ends_who_is_at_work_and_nobody_else(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Anywhere: after the columns of a prompt but before they are noted; between two rows."""
    engine = Engine(dg, max_rows=2)
    numbers = [engine.submit(f"<bos>{word}", max_new_tokens=1) for word in "abab"]
    calls = 0

    def interrupted(*args: Any, **keys: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*args, **keys)

    real, target = {
        "encode": (Prefix.extend, "gesso.engine.prefix.Prefix.extend"),
        "advance": (advance, "gesso.engine.joined.advance"),
    }[where]
    monkeypatch.setattr(target, interrupted)
    ends: list[End] = []
    with pytest.raises(KeyboardInterrupt):
        ends += [event for event in engine.run() if isinstance(event, End)]
    assert len(engine.prefixes) == 0  # they may be half noted
    ends += [event for event in engine.run() if isinstance(event, End)]
    assert sorted(end.row for end in ends) == numbers
    lost, kept = ends[:2], ends[2:]
    assert [end.result.finish_reason for end in lost] == ["cancelled"] * 2
    for end, word in zip(kept, "ab", strict=True):
        assert end.result.token_ids == alone_ids(dg, f"<bos>{word}")


def alone_ids(dg: DiffusionGemma, prompt: str) -> tuple[int, ...]:
    return dg.generate(prompt, max_new_tokens=1).token_ids


def test_who_waits_past_its_time_ends_without_a_canvas(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(dg, max_rows=1)
    busy = engine.submit("<bos>a", max_new_tokens=4 * L, ignore_stop_tokens=True)
    late = engine.submit("<bos>b", max_new_tokens=1, time_budget=1e-9)
    ends = [event for event in engine.run() if isinstance(event, End)]
    assert [end.row for end in ends] == [late, busy]
    assert ends[0].result.finish_reason == "time"
    assert ends[0].result.stats.forwards == 0
    assert len(ends[1].result.token_ids) == 4 * L


def test_a_canvas_that_was_committed_is_known_too(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next turn begins with the last one's prompt and answer."""
    dg.generation = replace(dg.generation, eos_token_ids=())
    engine = Engine(dg)
    prompt = list(range(40, 60))
    first = dg.generate_ids(prompt, max_new_tokens=2 * L)
    engine.submit_request(dg_request(dg, prompt, max_new_tokens=2 * L))
    list(engine.run())
    encoded = count_encoded(dg, monkeypatch)
    turn = [*prompt, *first.token_ids, 77, 78]
    engine.submit_request(dg_request(dg, turn, max_new_tokens=L))
    (end,) = (event for event in engine.run() if isinstance(event, End))
    # The first canvas was committed; the second, the last of its answer, was not.
    assert sum(encoded) == L + 2
    assert end.result.token_ids == dg.generate_ids(turn, max_new_tokens=L).token_ids


def test_a_long_prompt_delays_the_others_by_a_chunk_a_step(dg: DiffusionGemma) -> None:
    engine = Engine(dg, chunk=4)
    keys = dict(max_new_tokens=8 * L, ignore_stop_tokens=True)
    short = engine.submit("<bos>a", raw=True, **keys)
    engine.step()
    engine.submit("<bos>" + "x " * 40, raw=True, **keys)
    for _ in range(10):
        assert {event.row for event in engine.step()} == {short}
    ended = {event.row for event in engine.run() if isinstance(event, End)}
    assert ended == {0, 1}


def test_prompts_take_turns(dg: DiffusionGemma) -> None:
    """A short one that comes after a long one waits for a chunk of it, and however many short ones
    come, the long one goes on."""
    engine = Engine(dg, chunk=4)
    long = engine.submit("<bos>" + "x " * 60, raw=True, max_new_tokens=1)
    engine.step()
    chunks = len(engine._rows[0].request.prompt_ids) // 4
    assert chunks > 10
    short = engine.submit("<bos>a", raw=True, max_new_tokens=1)
    seen = {event.row for _ in range(2) for event in engine.step()}
    assert seen == {short}
    for _ in range(2 * chunks):
        engine.submit("<bos>b", raw=True, max_new_tokens=1)
        seen |= {event.row for event in engine.step()}
    assert long in seen


def test_requests_wait_for_memory_and_never_overtake(dg: DiffusionGemma) -> None:
    request = dg_request(dg, [5] * 60, max_new_tokens=2 * L)
    free = Engine(dg, max_rows=4, chunk=16)
    limit = free.memory.limit - free.memory.room + int(1.2 * free._admission.bytes([70]))
    engine = Engine(dg, max_rows=4, chunk=16, max_memory=limit)
    for _ in range(3):
        engine.submit_request(request)
    most, order = 0, []
    while not engine.idle:
        order += [event.row for event in engine.step() if isinstance(event, End)]
        most = max(most, len(engine._rows))
        assert engine.prefixes.nbytes <= engine._admission.free(engine._rows)
    assert most == 1
    assert order == [0, 1, 2]


def test_what_could_never_fit_is_refused(dg: DiffusionGemma) -> None:
    engine = Engine(dg, max_rows=1, chunk=8)
    small = engine.memory.limit - engine.memory.room + engine._admission.bytes([1 + L])
    engine = Engine(dg, max_rows=1, chunk=8, max_memory=small)
    with pytest.raises(ValueError, match="shorten the prompt or max_new_tokens, or raise"):
        engine.submit_request(dg_request(dg, [5] * 300, max_new_tokens=L))
    assert engine.idle


@pytest.mark.parametrize("early", [True, False])
def test_cancelled_before_its_first_canvas(dg: DiffusionGemma, early: bool) -> None:
    """While it waits for a place, and while its prompt is being encoded."""
    engine, flag = Engine(dg, max_rows=1, chunk=2), threading.Event()
    if early:
        engine.submit("<bos>a", raw=True, max_new_tokens=50, ignore_stop_tokens=True)
    number = engine.submit("<bos>" + "x " * 40, raw=True, cancelled=flag)
    engine.step()
    flag.set()
    (event,) = (event for event in engine.step() if event.row == number)
    assert isinstance(event, End)
    assert event.result.finish_reason == "cancelled"
    assert event.result.token_ids == ()


def test_who_is_alone_is_encoded_with_the_next_canvas_s_first_step(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And others are not; the events are those of the reference loop either way."""
    commits: list[tuple[int, int]] = []
    commit = dg.network.commit

    def counted(ids: torch.Tensor, canvas: torch.Tensor, **keys: Any) -> torch.Tensor:
        commits.append((ids.shape[1], canvas.shape[1]))
        return commit(ids, canvas, **keys)

    monkeypatch.setattr(dg.network, "commit", counted)
    keys = dict(max_new_tokens=4 * L, ignore_stop_tokens=True, adaptive_stop=False)
    one = Plan(words=[0, 1] * 5, arrives=0, gives_up=None, keys=keys)
    assert together(Engine(dg), [one]) == [alone(dg, one)]
    assert commits == [(L, L)] * 3
    assert together(Engine(dg), [one, one]) == [alone(dg, one)] * 2
    assert len(commits) == 3
    # Given up between a canvas and the next: two looks at it are two steps.
    for drafts in (3, 4):
        early = replace(one, gives_up=drafts)
        assert together(Engine(dg), [early]) == [alone(dg, early)]


def test_a_time_budget_is_filled_with_as_many_steps_as_fit(
    dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a forward turns by a second: the last step comes at the lowest temperature,
    and the canvas is whole when the time is over. A first step of a minute does not count."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    heats, first = [], [60.0]
    read, encode, commit = NetworkDenoiser.read, dg.network.encode, dg.network.commit

    def slow(self: Any, tokens: Any, soft: Any, temperature: torch.Tensor) -> Any:
        clock[0] += first.pop() if first else 1.0
        heats.append(float(temperature[0, 0, 0]))
        return read(self, tokens, soft, temperature)

    def encoded(*given: Any, **keys: Any) -> torch.Tensor:
        clock[0] += 0.125
        return encode(*given, **keys)

    def committed(*given: Any, **keys: Any) -> torch.Tensor:
        clock[0] += 1.125
        return commit(*given, **keys)

    monkeypatch.setattr(NetworkDenoiser, "read", slow)
    monkeypatch.setattr(dg.network, "encode", encoded)
    monkeypatch.setattr(dg.network, "commit", committed)
    engine = Engine(dg)
    keys = dict(raw=True, ignore_stop_tokens=True, adaptive_stop=False, max_denoising_steps=20)
    engine.submit("<bos>a", max_new_tokens=2 * L, **(keys | dict(max_denoising_steps=3)))
    list(engine.run())
    heats.clear()
    engine.submit("<bos>a", max_new_tokens=3 * L, time_budget=6.5, **keys)
    (end,) = (event for event in engine.run() if isinstance(event, End))
    assert end.result.stats.steps == (6, 1)
    assert end.result.stats.hit_step_cap == (True, True)
    assert end.result.finish_reason == "time"
    assert heats[5] < heats[4] < heats[0]
    config = dg.generation
    assert heats[5] == pytest.approx(
        config.temperature_end + (config.temperature_start - config.temperature_end) / 6
    )


@pytest.fixture
def ticking(dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch) -> DiffusionGemma:
    """By whose clock each pass takes a second."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for owner, name in ((NetworkDenoiser, "read"), (dg.network, "encode"), (dg.network, "commit")):
        plain = getattr(owner, name)

        def slow(*given: Any, plain: Any = plain, **keys: Any) -> Any:
            clock[0] += 1
            return plain(*given, **keys)

        monkeypatch.setattr(owner, name, slow)
    return dg


def test_a_time_budget_counts_what_others_prompts_take(ticking: DiffusionGemma) -> None:
    """A round takes two seconds while a prompt of seven chunks is encoded beside the canvas."""
    engine = Engine(ticking, chunk=4)
    keys = dict(raw=True, ignore_stop_tokens=True, adaptive_stop=False)
    engine.submit("<bos>a", max_new_tokens=L, max_denoising_steps=6, **keys)
    list(engine.run())
    mine = engine.submit("<bos>a", max_new_tokens=L, max_denoising_steps=20, time_budget=9, **keys)
    engine.submit_request(dg_request(ticking, list(range(40, 68)), max_new_tokens=1))
    (end,) = (e for e in engine.run() if isinstance(e, End) and e.row == mine)
    assert end.result.stats.steps == (4,)
    assert end.result.stats.hit_step_cap == (True,)


def test_a_prompt_whose_time_is_over_is_not_encoded_to_its_end(ticking: DiffusionGemma) -> None:
    engine = Engine(ticking, chunk=4)
    engine.submit_request(dg_request(ticking, list(range(40, 80)), time_budget=2.5))
    rounds = 0
    while not engine.idle:
        (*_, end) = engine.step() or [None]
        rounds += 1
    assert isinstance(end, End)
    assert (end.result.finish_reason, end.result.stats.forwards) == ("time", 0)
    assert rounds == 4


@pytest.mark.parametrize("name", ["max_rows", "chunk"])
def test_bad_settings(dg: DiffusionGemma, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: got 0; expected at least 1"):
        Engine(dg, **{name: 0})


def test_bad_requests_leave_nothing_behind(dg: DiffusionGemma) -> None:
    engine = Engine(dg)
    with pytest.raises(ValueError, match="seed: got -1"):
        engine.submit("<bos>a", raw=True, seed=-1)
    assert engine.idle
    assert engine.step() == []


def dg_request(dg: DiffusionGemma, ids: Sequence[int], **keys: Any) -> Any:
    from gesso.generation.request import Parameters, make_request

    return make_request(ids, Parameters(**keys), model=dg.network.config, defaults=dg.generation)


def count_encoded(dg: DiffusionGemma, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the number of tokens of every causal pass."""
    lengths: list[int] = []
    encode: Callable[..., torch.Tensor] = dg.network.encode

    def counted(ids: torch.Tensor, **keys: Any) -> torch.Tensor:
        lengths.append(ids.shape[1])
        return encode(ids, **keys)

    monkeypatch.setattr(dg.network, "encode", counted)
    return lengths

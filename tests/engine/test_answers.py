"""A loaded model that answers by an engine, in place of the readable loop."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from gesso.diffusion.loop import StepOutput
from gesso.engine import Engine
from gesso.engine.answers import Answers, load
from gesso.engine.joined import JoinedSteps
from gesso.engine.row import Row
from gesso.generation.events import End
from gesso.generation.model import DiffusionGemma
from tests.engine.schedules import L, plain

KEYS = dict(raw=True, max_new_tokens=2 * L, ignore_stop_tokens=True)


@pytest.fixture
def made() -> list[int]:
    """How many rows each engine was made for."""
    return []


@pytest.fixture
def served(dg: DiffusionGemma, made: list[int]) -> DiffusionGemma:
    def make(model: DiffusionGemma, rows: int) -> Engine:
        made.append(rows)
        return Engine(model, max_rows=rows, stepper=JoinedSteps(model.network))

    other = DiffusionGemma(dg.network, dg.processor, dg.generation)
    other.answers = Answers(other, make=make)
    return other


def test_the_events_are_those_of_the_readable_loop(
    dg: DiffusionGemma, served: DiffusionGemma, made: list[int]
) -> None:
    for seed in (3, 4):
        wanted, found = (list(each.stream("<bos>a", seed=seed, **KEYS)) for each in (dg, served))
        assert list(map(plain, found)) == list(map(plain, wanted))
        assert {event.row for event in found} == {0}
    prompts = ["<bos>a", "<bos>b", "<bos>ab"]
    wanted, found = (
        [result.token_ids for result in each.generate_batch(prompts, seeds=[1, 2, 3], **KEYS)]
        for each in (dg, served)
    )
    assert found == wanted
    assert dg.generate("<bos>b", **KEYS).token_ids == served.generate("<bos>b", **KEYS).token_ids
    assert made == [1, 3]


def test_answers_side_by_side(dg: DiffusionGemma, served: DiffusionGemma) -> None:
    """Two that are read in turn, from two threads in the end; and one given up between them, with
    the slot that it had."""
    texts = ["<bos>a", "<bos>ab"]
    wanted = [dg.generate(text, **KEYS).token_ids for text in texts]
    served.generate_batch(texts, **KEYS)  # an engine of two rows
    gone = served.stream("<bos>b", **KEYS)
    next(gone)
    first, second = (served.stream(text, **KEYS) for text in texts)
    next(first), next(second)
    gone.close()
    found: dict[int, tuple[int, ...]] = {}

    def read(place: int, events: Iterator[object]) -> None:
        (end,) = (event for event in events if isinstance(event, End))
        found[place] = end.result.token_ids

    threads = [threading.Thread(target=read, args=each) for each in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [found[place] for place in range(2)] == wanted
    assert served.answers._engine_for(1).idle


def test_what_is_given_up_takes_no_more_steps(
    served: DiffusionGemma, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps no larger batch from an engine of its size."""
    steps, step = [], JoinedSteps.step

    def counted(self: JoinedSteps, rows: Sequence[Row]) -> Iterator[tuple[Row, StepOutput]]:
        steps.append(len(rows))
        return step(self, rows)

    monkeypatch.setattr(JoinedSteps, "step", counted)

    def give_up() -> None:
        gone = served.stream("<bos>b", **(KEYS | dict(max_new_tokens=50 * L)))
        next(gone)
        gone.close()
        steps.clear()

    give_up()
    answer = served.generate("<bos>a", **KEYS)
    assert len(steps) <= answer.stats.forwards + 1
    give_up()
    served.generate_batch(["<bos>a"] * 3, **KEYS)
    assert made == [1, 3]


def test_one_s_own_event_ends_one_answer(served: DiffusionGemma) -> None:
    """And giving an answer up does not set it."""
    event = threading.Event()
    events = served.stream("<bos>a", cancelled=event, **KEYS)
    next(events)
    event.set()
    *_, end = events
    assert end.result.finish_reason == "cancelled"
    event.clear()
    given_up = served.stream("<bos>a", cancelled=event, **KEYS)
    next(given_up)
    given_up.close()
    assert not event.is_set()
    assert served.generate("<bos>a", **KEYS).finish_reason == "length"


def test_what_does_not_fit_is_refused_before_any_work(dg: DiffusionGemma) -> None:
    plan = Engine(dg, max_rows=1).memory
    little = plan.weights + plan.step + 4 * dg.network.cache_bytes(L)
    dg.answers = Answers(dg, make=lambda model, rows: Engine(model, max_rows=1, max_memory=little))
    assert dg.generate("<bos>a", raw=True, max_new_tokens=L).text
    with pytest.raises(ValueError, match="shorten the prompt or max_new_tokens"):
        dg.stream("<bos>a", raw=True, max_new_tokens=400)


def test_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("tiny", device="cpu").answers is None
    monkeypatch.setattr("gesso.kernels.choice.has_kernels", lambda device: True)
    assert isinstance(load("tiny", device="cpu").answers, Answers)

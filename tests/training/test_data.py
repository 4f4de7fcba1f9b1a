"""Batches are a function of (config, step); nothing is cut, lost or used twice."""

from collections import Counter
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from gesso.processor import Processor
from gesso.tasks import Example, get_task
from gesso.training import data as module
from gesso.training import sources
from gesso.training.data import Batches, collate
from gesso.training.sources import FixedSource, Row, TaskSource, tokenize

TINY = Path(str(resources.files("gesso") / "assets" / "tiny"))
L, CHUNK = 16, 4


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.load(TINY)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BATCHES", CHUNK)


def make(processor: Processor, *, seed: int = 0, batch_size: int = 3) -> Batches:
    source = TaskSource(get_task("extract"), processor)
    return Batches({source: 1.0}, batch_size=batch_size, canvas_length=L, fill_id=1, seed=seed)


def same(one: tuple, other: tuple) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_batch_is_a_function_of_its_step(processor: Processor) -> None:
    """In any order, by any object; the state of other random generators does not matter."""
    ahead = make(processor)
    batches = [ahead.batch(step) for step in range(2 * CHUNK)]
    torch.manual_seed(5)
    for step in (6, 0, 7, 3, 3, 0):
        assert same(ahead.batch(step), batches[step])
    assert same(make(processor).batch(5), batches[5])
    assert not same(batches[0][:1], batches[CHUNK][:1])
    other = make(processor, seed=1).batch(0)
    assert other.ids.shape != batches[0].ids.shape or not same(other, batches[0])


def test_all_rows_of_a_chunk_are_used_once(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Row] = []
    monkeypatch.setattr(
        sources, "tokenize", lambda *given: drawn.append(tokenize(*given)) or drawn[-1]
    )
    batches = [make(processor).batch(0)]
    drawn_once = Counter(drawn)
    data = make(processor)
    batches = [data.batch(step) for step in range(CHUNK)]
    assert sum(drawn_once.values()) == CHUNK * 3
    assert Counter(row for batch in batches for row in rows_of(batch)) == drawn_once


def rows_of(batch: module.Batch) -> list[Row]:
    rows = []
    for ids, prompt, answer in zip(*batch[:3], strict=True):
        tokens, middle = ids.tolist(), int(prompt)
        rows.append(Row(tuple(tokens[:middle]), tuple(tokens[middle : middle + int(answer)])))
    return rows


def test_layout() -> None:
    """[prompt ; answer ; fill], each row's last canvas filled to its end, then padding."""
    rows = [Row((2, 7), (8, 9, 16)), Row((2, 7, 7, 7), (5, 5, 5, 5, 16)), Row((2,), (16,) * 4)]
    batch = collate(rows, canvas_length=4, fill_id=1)
    assert batch.prompt_length.tolist() == [2, 4, 1]
    assert batch.answer_length.tolist() == [3, 5, 4]
    assert batch.canvases.tolist() == [1, 2, 1]
    assert batch.ids.tolist() == [
        [2, 7, 8, 9, 16] + [1] * 7,
        [2, 7, 7, 7, 5, 5, 5, 5, 16] + [1] * 3,
        [2] + [16] * 4 + [1] * 7,
    ]
    assert rows_of(batch) == rows


@pytest.mark.parametrize(("length", "canvases"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_canvases_hold_the_whole_answer(length: int, canvases: int) -> None:
    batch = collate([Row((2,), (7,) * length)], canvas_length=4, fill_id=1)
    assert batch.canvases.tolist() == [canvases]
    assert batch.ids.shape == (1, 1 + 4 * canvases)


def test_nothing_is_cut(processor: Processor) -> None:
    """However long an example is, every token of it is in the batch."""
    example = Example(prompt="word " * 700, completion="answer " * 300)
    row = tokenize(example, processor)
    assert row.prompt == tuple(processor.encode_prompt(example.prompt))
    assert row.answer[:-1] == tuple(processor.tokenizer.encode(example.completion))
    assert row.answer[-1] == processor.end_of_turn_id
    assert rows_of(collate([row], canvas_length=L, fill_id=1)) == [row]
    assert len(row.answer) > 300


def test_batches_hold_rows_of_like_lengths(processor: Processor) -> None:
    """Sorted within the chunk, so padding is small; batches come in no order of length."""
    data = make(processor)
    keys = []
    for step in range(CHUNK):
        batch = data.batch(step)
        pairs = zip(batch.canvases.tolist(), batch.prompt_length.tolist(), strict=True)
        keys.append(list(pairs))
    flat = sorted(keys)
    assert all(max(a) <= min(b) for a, b in pairwise(flat))


def test_shares_of_a_mixture(processor: Processor) -> None:
    class Fixed:
        def __init__(self, name: str) -> None:
            self.name = name

        def examples(self, *, split: str, seed: int):
            assert split == "train"
            while True:
                yield Example(prompt=self.name, completion=self.name)

    shares = {TaskSource(Fixed("a"), processor): 3.0, TaskSource(Fixed("b"), processor): 1.0}
    data = Batches(shares, batch_size=100, canvas_length=L, fill_id=1, seed=0)
    a = tuple(processor.encode_prompt("a"))
    rows = [row for step in range(CHUNK) for row in rows_of(data.batch(step))]
    assert sum(row.prompt == a for row in rows) == 300


@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (5.0, 0.001), (0.2, 0.3, 0.5), (1.0,) * 13])
def test_a_chunk_is_full_and_every_source_has_its_share(shares: tuple[float, ...]) -> None:
    rows = [[Row((i,), (n,)) for n in range(7)] for i in range(len(shares))]
    given = {FixedSource(rows[i]): share for i, share in enumerate(shares)}
    data = Batches(given, batch_size=5, canvas_length=L, fill_id=1, seed=0)
    drawn = [row for step in range(CHUNK) for row in rows_of(data.batch(step))]
    counts = Counter(row.prompt[0] for row in drawn)
    assert len(drawn) == 5 * CHUNK
    for i, share in enumerate(shares):
        assert counts[i] == pytest.approx(5 * CHUNK * share / sum(shares), abs=1)


@pytest.mark.parametrize("shares", [
    (0.9, *(0.1 / 40,) * 40), (0.99, 0.01), (1 / 3, 2 / 3), (1.0,) * 50, (3.0, 1.0),
])  # fmt: skip
def test_in_the_long_run_every_source_has_its_share(shares: tuple[float, ...]) -> None:
    """Also where a chunk has no room for some; and of each, row after row, none twice."""
    asked: list[list[int]] = [[] for _ in shares]

    class Numbered:
        def __init__(self, place: int) -> None:
            self.place = place

        def rows(self, first: int, count: int, *, seed: int) -> list[Row]:
            asked[self.place] += range(first, first + count)
            return [Row((self.place,), (first + i,)) for i in range(count)]

    given = {Numbered(place): share for place, share in enumerate(shares)}
    data = Batches(given, batch_size=2, canvas_length=L, fill_id=1, seed=0)
    chunks = 100
    for step in range(CHUNK * chunks):
        assert len(data.batch(step).ids) == 2
    for numbers, share in zip(asked, shares, strict=True):
        assert numbers == list(range(len(numbers)))
        # Of so many sources a few may have come a little early.
        assert len(numbers) == pytest.approx(2 * CHUNK * chunks * share / sum(shares), abs=1.5)
    assert sum(map(len, asked)) == 2 * CHUNK * chunks


@pytest.mark.parametrize("size", [1, 3, 20, 50])
def test_an_epoch_holds_every_row_once_in_its_own_order(size: int) -> None:
    source = FixedSource([Row((i,), (i,)) for i in range(size)])
    run = [row.prompt[0] for k in range(12) for row in source.rows(10 * k, 10, seed=3)]
    epochs = [run[i : i + size] for i in range(0, 120 - size + 1, size)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    if size > 3:
        assert epochs[0] != epochs[1]
    assert run == [row.prompt[0] for row in source.rows(0, 120, seed=3)]
    assert size == 1 or run != [row.prompt[0] for row in source.rows(0, 120, seed=4)]

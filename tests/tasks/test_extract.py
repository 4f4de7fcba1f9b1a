"""Laws of the extract task: answers are spans, splits are disjoint, verdicts are type-strict."""

from __future__ import annotations

import json
import re
from itertools import islice
from random import Random

import pytest

from gesso.tasks import Example, get_task
from gesso.tasks.extract.forms import PARTS, Part, distractors, forms, rules
from gesso.tasks.extract.lexicon import POOLS, lexicon
from gesso.tasks.extract.names import LETTERS, PIECES, Names, invented
from gesso.tasks.extract.notation import Expander, Span, parse, rule_names
from gesso.tasks.extract.schema import KEYS, serialise
from gesso.tasks.extract.sentence import answer, capitalise, tidy
from gesso.tasks.extract.task import LONGEST, PREFIX, mix
from gesso.tasks.extract.things import groups, in_words, phrases
from gesso.tasks.extract.values import Values
from gesso.tasks.extract.verdict import judge
from tests.terminal.conftest import TINY

SPLITS = ("train", "names", "forms", "wider")
# A rule or a slot that was not expanded; brackets alone may be a form's own.
NOTATION = re.compile(rf"\{{({'|'.join(rules())})\}}|<\w+:\w+>")
NAMED = ("customer", "person", "with", "name", "company", "reporter")


def some(split: str, count: int = 1200, seed: int = 0) -> list[Example]:
    return list(islice(get_task("extract").examples(split=split, seed=seed), count))


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Example]]:
    return {split: some(split) for split in SPLITS}


def strings(obj: dict[str, object]) -> list[str]:
    """All string values but the kind."""
    items = obj.get("items")
    found = [item["item"] for item in items] if isinstance(items, list) else []
    return found + [v for k, v in obj.items() if k != "kind" and isinstance(v, str)]


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_stream(split: str) -> None:
    assert some(split, 50, 7) == some(split, 50, 7)
    assert some(split, 50, 7) != some(split, 50, 8)


def test_unknown_split_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"'test'.*train, names, forms, wider"):
        get_task("extract").examples(split="test", seed=0)


def test_unknown_task_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"'extrakt'.*extract"):
        get_task("extrakt")


@pytest.mark.parametrize("split", SPLITS)
def test_answers_follow_the_contract(split: str, samples: dict[str, list[Example]]) -> None:
    for example in samples[split]:
        obj = json.loads(example.completion)
        assert serialise(obj) == example.completion
        assert len(example.completion) <= LONGEST
        assert tuple(obj) == ("kind", *KEYS[obj["kind"]])
        assert example.info["kind"] == obj["kind"]
        for text in strings(obj):
            assert text
            assert text == text.strip()
            assert text in example.prompt.removeprefix(PREFIX)
        for item in obj.get("items", ()):
            assert tuple(item) == ("item", "quantity")
            assert type(item["quantity"]) is int
            assert item["quantity"] > 0
        assert 1 <= len(obj.get("items", [0])) <= 3
        assert strings(obj), "an empty answer teaches nothing"


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_are_well_spaced(split: str, samples: dict[str, list[Example]]) -> None:
    for example in samples[split]:
        text = example.prompt.removeprefix(PREFIX)
        assert "  " not in text
        assert not re.search(r"(?<!\.)\.\.(?!\.)", text)
        assert " ," not in text
        assert text == text.strip()
        assert not NOTATION.search(text)


def test_prefix_is_optional_only_in_training(samples: dict[str, list[Example]]) -> None:
    share = {s: sum(e.prompt.startswith(PREFIX) for e in es) / len(es) for s, es in samples.items()}
    assert share["names"] == share["forms"] == share["wider"] == 1.0
    assert 0.64 < share["train"] < 0.76  # 0.7, over four standard errors of 1,200 draws


@pytest.mark.parametrize(("part", "least"), [("core", 350), ("wide", 850), ("more", 400)])
@pytest.mark.parametrize("kind", KEYS)
def test_there_are_many_forms(kind: str, part: Part, least: int) -> None:
    everything = forms(kind, part)
    held = [form for form in everything if form.held]
    assert len(everything) >= least
    others = {form.text for other in PARTS if other != part for form in forms(kind, other)}
    assert not {form.text for form in everything} & others
    assert len({form.id for form in everything}) == len(everything)
    assert 8 <= len(held) <= 0.25 * len(everything)
    assert len(distractors(kind)) >= 60


@pytest.mark.parametrize("kind", KEYS)
def test_every_form_expands_at_any_seed(kind: str) -> None:
    for form in (form for part in PARTS for form in forms(kind, part)):
        assert rule_names(form.tree) <= rules().keys(), form.text
        for seed in range(5):
            rng = Random(seed)
            values = Values(kind=kind, rng=rng, pools=lexicon(held=True), pseudo=0.0)
            spans: list[Span] = []
            keep = (seed % 3) / 2  # nothing optional, half of it, all of it
            form.tree.expand(Expander(rng=rng, rules=rules(), fill=values, keep=keep), spans)
            obj = answer(kind, tidy(capitalise(spans)))
            if keep == 1:
                assert strings(obj), form.text


def test_train_forms_are_not_the_held_out_ones(samples: dict[str, list[Example]]) -> None:
    ids = {split: {e.info["form"] for e in es} for split, es in samples.items()}
    for held in ("forms", "wider"):
        assert not ids["train"] & ids[held]
        assert not ids["names"] & ids[held]
    assert not ids["forms"] & ids["wider"]
    known = {form.id for kind in KEYS for form in mix("train").forms[kind]}
    assert ids["names"] <= known


def test_pools_are_disjoint_and_roughly_split() -> None:
    train, held = lexicon(held=False), lexicon(held=True)
    for pool in POOLS:
        ours, theirs = set(getattr(train, pool)), set(getattr(held, pool))
        assert not ours & theirs
        assert 0.08 < len(theirs) / len(ours | theirs) < 0.25


def test_no_held_out_name_is_ever_trained_on() -> None:
    held = lexicon(held=True)
    names = {n.lower() for pool in POOLS for n in getattr(held, pool)}
    for example in some("train", 3000, 3):
        obj = json.loads(example.completion)
        for key in NAMED:
            value = (obj.get(key) or "").lower()
            words = value.replace("-", " ").replace("&", " ").replace(",", " ").split()
            assert value not in names, example
            assert not names.intersection(words), example


def test_only_training_draws_from_the_wider_vocabulary(
    samples: dict[str, list[Example]],
) -> None:
    core = {phrase.removeprefix("a ").removeprefix("an ") for phrase in phrases()}
    for split, examples in samples.items():
        objects = [json.loads(example.completion) for example in examples]
        found = {o["what"][0].lower() + o["what"][1:] for o in objects if o.get("what")}
        wider = len(found - core)
        assert wider > 50 if split in ("train", "wider") else wider == 0, split


def test_the_wider_vocabulary_holds_the_core() -> None:
    assert groups(wide=True)[: len(groups())] == groups()
    assert all(group.adjectives and group.nouns for group in groups(wide=True))
    assert set(phrases()) < set(phrases(wide=True))


def test_invented_words_have_every_piece_of_the_vocabulary() -> None:
    """Of up to six letters: what only a held-out name holds would otherwise never be written."""
    vocabulary = json.loads((TINY / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = {word.lower() for word in vocabulary if word.isascii() and word.isalpha()}
    assert {piece for piece in pieces if 2 <= len(piece) <= 6} <= set(PIECES)
    rng, words = Random(3), [invented(Random(seed)) for seed in range(3000)]
    assert all(word == word.lower() and word.isalpha() for word in words)
    assert len(set(words)) > 2950
    assert sum(letter in word for word in words for letter in LETTERS) > 300
    # Held-out names stay out, however a word comes about.
    held = lexicon(held=False).forbidden
    names = Names(rng=rng, pools=lexicon(held=False), pseudo=1.0)
    assert not held.intersection(names.first().lower() for _ in range(3000))


def test_numbers_in_words() -> None:
    said = {n: in_words(n) for n in (1, 12, 13, 20, 35, 99, 300)}
    assert said == {
        1: "one", 12: "twelve", 13: "thirteen", 20: "twenty", 35: "thirty-five",
        99: "ninety-nine", 300: "three hundred",
    }  # fmt: skip
    assert len({in_words(n) for n in range(1, 100)}) == 99


def test_held_out_splits_use_no_training_name(samples: dict[str, list[Example]]) -> None:
    train = lexicon(held=False)
    for split in ("names", "forms"):
        for example in samples[split]:
            obj = json.loads(example.completion)
            for key in ("person", "name", "reporter"):
                assert not set((obj.get(key) or "").split()) & set(train.last), example


def test_a_distractor_never_reaches_the_answer() -> None:
    def fill(slot: str, variant: str) -> list[Span]:
        return [Span("WRONG", "other")] if slot == "other" else [Span("right", slot)]

    for kind in KEYS:
        for distractor in distractors(kind):
            spans = [Span("1 "), Span("mug", "item:1"), Span(". ")]
            by = Expander(rng=Random(0), rules=rules(), fill=fill, keep=0.5)
            distractor.tree.expand(by, spans)
            assert "WRONG" not in serialise(answer(kind, spans))
            assert {label for _, label in spans} <= {None, "item:1", "other"}


ORDER = {
    "kind": "order",
    "customer": None,
    "items": [{"item": "mug", "quantity": 1}],
    "deliver_to": None,
    "date": "3",
}


def judged(**changes: object) -> dict[str, bool]:
    return judge(serialise(ORDER), json.dumps({**ORDER, **changes}))


def test_verdict_accepts_the_answer_in_any_layout() -> None:
    yes = {"exact": True, "parses": True, "kind": True}
    assert judged() == yes
    backwards = dict(reversed(ORDER.items()))
    assert judge(serialise(ORDER), f"\n {json.dumps(backwards, indent=2)} \n") == yes
    task, example = get_task("extract"), some("forms", 1)[0]
    assert task.verdict(example, example.completion) == yes


@pytest.mark.parametrize("quantity", ["1", 1.0, True, 2, None])
def test_verdict_takes_types_seriously(quantity: object) -> None:
    assert not judged(items=[{"item": "mug", "quantity": quantity}])["exact"]


@pytest.mark.parametrize("change", [{"date": 3}, {"customer": ""}, {"extra": None}, {"items": []}])
def test_verdict_wants_exactly_the_object(change: dict[str, object]) -> None:
    assert judged(**change) == {"exact": False, "parses": True, "kind": True}


def test_verdict_wants_every_key_and_the_kind() -> None:
    short = {key: value for key, value in ORDER.items() if key != "date"}
    assert not judge(serialise(ORDER), json.dumps(short))["exact"]
    assert judged(kind="contact") == {"exact": False, "parses": True, "kind": False}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "Sure! {}", "{} {}", "[" * 100_000])
def test_verdict_of_something_else(text: str) -> None:
    assert judge(serialise(ORDER), text) == {"exact": False, "parses": False, "kind": False}


def test_notation_covers_its_brackets() -> None:
    def said(skeleton: str, keep: float) -> set[str]:
        found = set()
        for seed in range(40):
            by = Expander(
                rng=Random(seed),
                rules={"r": parse("(x|y)")},
                fill=lambda slot, variant: [Span(f"{slot}/{variant}", slot)],
                keep=keep,
            )
            spans: list[Span] = []
            parse(skeleton).expand(by, spans)
            found.add("".join(s.text for s in spans))
        return found

    assert said("a[b(c|d)]", 0.0) == {"a"}
    assert said("a[b(c|d)]", 1.0) == {"abc", "abd"}
    assert said("{r} <s:v>\\n\\|", 1.0) == {"x s/v\n|", "y s/v\n|"}


@pytest.mark.parametrize("skeleton", ["a]", "[a", "(a|b", "<a", "{a", "a)"])
def test_notation_refuses_odd_brackets(skeleton: str) -> None:
    with pytest.raises(ValueError, match="skeleton"):
        parse(skeleton)

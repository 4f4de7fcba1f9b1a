"""The task: which names and forms a split may use, and how an example is put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from gesso.tasks.extract.forms import PARTS, Form, Part, distractors, forms, rules
from gesso.tasks.extract.lexicon import Lexicon, lexicon
from gesso.tasks.extract.noise import roughen
from gesso.tasks.extract.notation import Expander, Span
from gesso.tasks.extract.schema import KEYS, serialise
from gesso.tasks.extract.sentence import answer, capitalise, tidy
from gesso.tasks.extract.values import OTHER, Values
from gesso.tasks.extract.verdict import judge
from gesso.tasks.task import Example, check_split

PREFIX = "Extract: "
# A canvas of 64 tokens holds about this many characters of an answer.
LONGEST = 220
GREETINGS = ("hi", "hello", "hey", "dear", "good ", "morning", "subject", "to ")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What a split draws from, and how often it does what."""

    pools: Lexicon
    forms: Mapping[str, tuple[Form, ...]]
    prefixed: float
    pseudo: float
    rough: float
    distracted: float = 0.28
    wide: float = 0.0


def mix(split: str) -> Mix:
    """The mix of a known split."""
    train, wider = split == "train", split == "wider"
    held = split in ("forms", "wider")
    # Training meets each form of the core twice as often as one of the others.
    train_parts: tuple[Part, ...] = ("core", *PARTS)
    parts = train_parts if train else ("wide",) if wider else ("core",)

    def some(kind: str) -> tuple[Form, ...]:
        return tuple(f for part in parts for f in forms(kind, part) if f.held == held)

    return Mix(
        pools=lexicon(held=not train),
        forms={kind: some(kind) for kind in KEYS},
        prefixed=0.7 if train else 1.0,
        pseudo=0.15 if train else 0.0,
        rough=0.16 if train else 0.0,
        wide=0.5 if train or wider else 0.0,
    )


class ExtractTask:
    """Sentences with the JSON object that they say. The contract is in the package's docstring."""

    name: str = "extract"
    splits: Mapping[str, str] = {
        "train": "the forms and names that training may see, at times invented or roughly typed",
        "names": "forms of training with names (people, firms, cities, streets) never seen in it",
        "forms": "sentence forms never seen in training, with names never seen in it",
        "wider": "the same of the wider grammar, and values from the wider vocabulary",
    }

    def examples(self, *, split: str, seed: int) -> Iterator[Example]:
        """An endless stream, the same for the same split and seed. ValueError: unknown split."""
        check_split(self, split)
        return self._stream(mix(split), Random(f"{split}:{seed}"))

    def verdict(self, example: Example, text: str) -> dict[str, bool]:
        """exact: the wanted object, types and all; parses: a JSON object; kind: the right one."""
        return judge(example.completion, text)

    def _stream(self, mix: Mix, rng: Random) -> Iterator[Example]:
        kinds = tuple(KEYS)
        while True:
            kind = kinds[int(rng.random() * len(kinds))]
            form = rng.choice(mix.forms[kind])
            # Invented words come together: a text full of the unknown is one kind of text. They
            # come one at a time too, as an unknown name does among others.
            roll = rng.random()
            pseudo = 0.7 if roll < mix.pseudo else 0.2 if roll < 3 * mix.pseudo else 0.0
            wide = mix.wide > 0 and rng.random() < mix.wide
            values = Values(kind=kind, rng=rng, pools=mix.pools, pseudo=pseudo, wide=wide)
            spans = sentence(form, values, mix)
            obj = answer(kind, spans)
            completion = serialise(obj)
            empty = not any(obj[key] for key in KEYS[kind])
            if empty or len(completion) > LONGEST or _mixed_up(obj, spans):
                continue
            prefix = PREFIX if rng.random() < mix.prefixed else ""
            text = prefix + "".join(span.text for span in spans)
            yield Example(prompt=text, completion=completion, info={"kind": kind, "form": form.id})


def sentence(form: Form, values: Values, mix: Mix) -> list[Span]:
    """A form expanded, distracted, capitalised and roughened."""
    rng = values.rng
    by = Expander(rng=rng, rules=rules(), fill=values, keep=rng.choice((0.4, 0.65, 0.9)))
    spans: list[Span] = []
    form.tree.expand(by, spans)
    if rng.random() < mix.distracted:
        spans = distract(spans, form.kind, by)
    spans = tidy(capitalise(spans))
    return roughen(spans, rng) if rng.random() < mix.rough else spans


def distract(spans: list[Span], kind: str, by: Expander) -> list[Span]:
    """Put a distractor before or after; a greeting stays in front of it."""
    choice = by.rng.choice(distractors(kind))
    greeted = spans[0].text.lower().startswith(GREETINGS) and spans[0].label is None
    extra: list[Span] = []
    choice.tree.expand(by, extra)
    multiline = any("\n" in span.text for span in spans)
    gap = "\n" if multiline else " "
    if choice.before and not greeted and (not choice.after or by.rng.random() < 0.5):
        return [*extra, Span(gap), *spans]
    if not choice.after:
        return spans
    closed = spans[-1].text.rstrip().endswith((".", "!", "?"))
    return [*spans, Span(gap if closed or multiline else ". "), *extra]


def _mixed_up(obj: Mapping[str, Any], spans: list[Span]) -> bool:
    """Whether a distractor happens to name something that the answer holds."""
    theirs = {text.lower() for text, label in spans if label == OTHER}
    return any(isinstance(v, str) and v.lower() in theirs for v in obj.values())

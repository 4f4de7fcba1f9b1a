"""Infilling: the answer restores a function, whole modules are held out, the judge is fair."""

import ast
import itertools
import re
from statistics import mean

import pytest

import gesso
from gesso.engine import Engine
from gesso.tasks import Example, get_task
from gesso.tasks.infill import (
    ASKED,
    LONGEST_BODY,
    LONGEST_WHOLE,
    PREFIX,
    SUFFIX,
    functions,
    is_held,
    sources,
)

TASK = get_task("infill")


def some(split: str, seed: int = 0, n: int = 60) -> list[Example]:
    return list(itertools.islice(TASK.examples(split=split, seed=seed), n))


@pytest.mark.parametrize("split", ["train", "held"])
def test_the_answer_restores_the_function(split: str) -> None:
    for example in some(split):
        before, after = example.info["before"], example.info["after"]
        assert example.prompt == f"{ASKED}{SUFFIX}{after}{PREFIX}{before}"
        assert before + example.completion + after in functions(example.info["module"])
        assert is_held(example.info["module"]) == (split == "held")
        assert TASK.verdict(example, example.completion) == dict(exact=1, parses=1, similarity=1)
    assert {example.info["kind"] for example in some(split)} == {"expression", "line", "block"}


def test_prose_is_not_asked_for() -> None:
    """The function that is in view has no docstring, and no hole begins with a comment."""
    for example in itertools.islice(get_task("infill-line").examples(split="train", seed=2), 300):
        assert not example.completion.startswith("#")
        whole = example.info["before"] + example.completion + example.info["after"]
        [function] = ast.parse(whole).body
        assert ast.get_docstring(function) is None


def test_forks_of_other_modules_are_left_out() -> None:
    """What is held out would be seen: lib2to3 has a tokenizer of its own, after the library's."""
    assert {name for name in sources() if name.endswith("tokenize.py")} == {"tokenize.py"}


def test_there_is_enough_of_both() -> None:
    held = [name for name in sources() if is_held(name)]
    assert sum(len(functions(name)) for name in held) > 200
    assert len(sources()) > 5 * len(held)


def test_lines_with_and_without_what_follows_them() -> None:
    tasks = [get_task(name) for name in ("infill-line", "infill-prefix")]
    streams = [itertools.islice(task.examples(split="held", seed=1), 100) for task in tasks]
    for whole, cut in zip(*streams, strict=True):
        assert whole.info == cut.info
        assert whole.info["kind"] == "line"
        assert whole.completion == cut.completion
        assert "\n" not in cut.completion
        assert cut.prompt == f"{ASKED}{PREFIX}{cut.info['before']}"
        # The judge knows what follows.
        for text in (cut.completion, "(", "pass"):
            assert tasks[1].verdict(cut, text) == tasks[0].verdict(whole, text)


def test_bodies() -> None:
    """A few whole lines are shown, and as many hidden after them as the limit lets."""
    task = get_task("infill-body")
    for example in itertools.islice(task.examples(split="held", seed=4), 200):
        before, after = example.info["before"], example.info["after"]
        shown = example.prompt.removeprefix(ASKED + PREFIX)
        assert before.endswith(shown)
        assert before[: -len(shown)][-1:] in ("", "\n")
        whole = before + example.completion + after
        assert whole in functions(example.info["module"], LONGEST_WHOLE)
        assert 0 < len(example.completion) <= LONGEST_BODY
        assert is_held(example.info["module"])
        assert task.verdict(example, example.completion) == dict(exact=1, parses=1, similarity=1)
        # What stands after it would have been too much.
        [following] = re.findall(r"\A\n*.*", after)
        assert not after or len(example.completion + following) > LONGEST_BODY


def test_splits_and_seeds() -> None:
    assert some("train", 1, 20) == some("train", 1, 20) != some("train", 2, 20)
    with pytest.raises(ValueError, match="unknown split 'x'; known: train, held"):
        TASK.examples(split="x", seed=0)


def test_verdicts() -> None:
    info = {"before": "def area(w, h):\n    return ", "after": ""}
    example = Example(prompt="", completion="w * h", info=info)
    assert TASK.verdict(example, "w * h\n")["exact"] == 1
    other = TASK.verdict(example, "w * w")
    assert (other["exact"], other["parses"], other["similarity"]) == (0, 1, 0.8)
    assert TASK.verdict(example, "w *")["parses"] == 0
    assert TASK.verdict(example, "\x00")["parses"] == 0
    assert TASK.verdict(example, "")["similarity"] == 0


def test_the_embedded_infiller() -> None:
    """On held-out lines, which differ from one Python to the next: it writes Python, and some of
    what was there."""
    task = get_task("infill-line")
    examples = list(itertools.islice(task.examples(split="held", seed=3), 16))
    engine = Engine(gesso.load("infill"), max_rows=16)
    found = engine.answers([example.prompt for example in examples])
    verdicts = [task.verdict(examples[place], result.text) for place, result in found]
    assert mean(verdict["parses"] for verdict in verdicts) > 0.4
    assert mean(verdict["similarity"] for verdict in verdicts) > 0.25

"""A user's own file as a task: its examples, and what counts as the answer wanted."""

import json
from itertools import islice
from pathlib import Path

import pytest

from gesso.tasks import Example, get_task

SUMS = [{"prompt": f"{n} plus one", "completion": f"{n + 1}"} for n in range(20)]


def write(folder: Path, *records: object) -> str:
    path = folder / "held.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_all_of_it_once_in_the_seeds_order(tmp_path: Path) -> None:
    task = get_task(write(tmp_path, *SUMS))
    one, two = (list(task.examples(split="held", seed=seed)) for seed in (0, 1))
    assert one != two
    assert {e.prompt for e in one} == {e.prompt for e in two} == {s["prompt"] for s in SUMS}
    assert one == list(task.examples(split="held", seed=0))
    assert len(list(islice(task.examples(split="held", seed=0), 500))) == 20


def test_every_assistant_message_is_asked_for(tmp_path: Path) -> None:
    messages = [{"role": role, "content": role[0]} for role in ("user", "assistant") * 2]
    task = get_task(write(tmp_path, {"messages": messages}))
    prompts = [example.prompt for example in task.examples(split="held", seed=0)]
    assert sorted(prompts, key=len) == [messages[:1], messages[:3]]


@pytest.mark.parametrize(
    ("wanted", "text", "exact"),
    [
        ("four", " four\n", True),
        ("four", "Four", False),
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1}', '{"a": 1', False),
        ("12", "12.0", False),
        ('{"a": NaN}', '{"a": NaN}', True),
    ],
)
def test_the_answer_or_the_same_json(tmp_path: Path, wanted: str, text: str, exact: bool) -> None:
    record = {"prompt": "?", "completion": wanted}
    task = get_task(write(tmp_path, record))
    verdict = task.verdict(Example(prompt="?", completion=wanted), text)
    assert verdict["exact"] is exact
    assert ("parses" in verdict) == wanted.startswith("{")


def test_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 bad lines; mend them: line 2: keys x; expected"):
        get_task(write(tmp_path, SUMS[0], {"x": 1}))
    with pytest.raises(ValueError, match="no example in it"):
        get_task(write(tmp_path))
    with pytest.raises(ValueError, match=r"none\.jsonl: no such file"):
        get_task(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="unknown split 'train'; known: held"):
        get_task(write(tmp_path, *SUMS)).examples(split="train", seed=0)

"""A user's file: what its lines become, and what is said of the bad ones."""

import json
from importlib import resources
from pathlib import Path

import datasets
import pytest

from gesso.processor import Processor
from gesso.training.folder import read_data
from gesso.training.jsonl import read_jsonl

TINY = Path(str(resources.files("gesso") / "assets" / "tiny"))
GOOD = {"prompt": "two plus two", "completion": "four"}


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.load(TINY)


def write(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_prompt_and_completion(processor: Processor, tmp_path: Path) -> None:
    (row,), skipped = read_jsonl(write(tmp_path, GOOD, "", "  "), processor, longest=100)
    assert row.prompt == tuple(processor.encode_prompt("two plus two"))
    assert row.answer == (*processor.tokenizer.encode("four"), processor.end_of_turn_id)
    assert skipped == 0


def test_every_assistant_message_is_an_answer(processor: Processor, tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "2"}]},
    ]
    rows = read_jsonl(write(tmp_path, {"messages": messages}), processor, longest=100).rows
    end = processor.end_of_turn_id
    assert [row.prompt for row in rows] == [
        tuple(processor.encode_prompt(messages[:2])), tuple(processor.encode_prompt(messages[:4]))
    ]  # fmt: skip
    assert [row.answer for row in rows] == [
        (*processor.tokenizer.encode(text), end) for text in ("1", "2")
    ]


def test_a_dataset_is_read_like_a_file(processor: Processor, tmp_path: Path) -> None:
    """Arrow gives every message all keys, None where a message has none."""
    messages = [
        {"role": "user", "content": "one?", "name": "Ann"},
        {"role": "assistant", "content": "1"},
    ]
    path = write(tmp_path, {"messages": messages}, {"messages": messages[1:]})
    dataset = datasets.Dataset.from_list([{"messages": messages}, {"messages": messages[1:]}])
    assert dataset[0]["messages"][1] == {"role": "assistant", "content": "1", "name": None}
    keys = dict(canvas_length=64, longest=100, skip_bad=True)
    assert read_data(dataset, processor, **keys) == read_data(path, processor, **keys)
    with pytest.raises(ValueError, match=r"Dataset: 1 bad records; .* record 1: no assistant"):
        read_data(dataset, processor, **keys | {"skip_bad": False})


def turn(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


IMAGE = [{"type": "image_url", "image_url": {"url": "data:,"}}]
BAD: list[tuple[object, str]] = [
    ("{", "not JSON"),
    ("[1]", "a JSON list; expected an object"),
    ("{}", "keys none; expected messages, or prompt and completion"),
    ({"text": "a"}, "keys text; expected messages"),
    (GOOD | {"messages": []}, "keys prompt, completion, messages"),
    ({"prompt": 3, "completion": "a"}, "prompt is a int; expected text"),
    ({"prompt": "", "completion": "a"}, "the prompt is empty"),
    ({"prompt": "a", "completion": " "}, "completion is empty"),
    ({"prompt": "a", "completion": None}, "completion is a NoneType"),
    ({"messages": "hello"}, "messages is not a list of objects"),
    ({"messages": []}, "no assistant message"),
    ({"messages": [turn("assistant", "a")]}, "no assistant message with another one before it"),
    ({"messages": [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]}, "the last"),
    ({"messages": [turn("human", "a"), turn("assistant", "b")]}, "role 'human'"),
    ({"messages": [turn("user", IMAGE), turn("assistant", "b")]}, "image"),
    ({"messages": [turn("user", "a"), turn("assistant", IMAGE)]}, "part of type image_url"),
    ({"messages": [turn("user", "a"), turn("assistant", "b", tool_calls=[1])]}, "has tool_calls"),
    (
        {"messages": [turn("user", "a"), turn("assistant", "b", weight=2)]},
        "the weight 2; expected 0",
    ),
    ({"messages": [turn("user", "a"), turn("assistant", "b", weight=0)]}, "has weight 0"),
    (GOOD | {"system": "Be brief."}, "system is not read yet; put it into the messages"),
    ({"prompt": "a", "completion": "word " * 100}, "tokens; at most 100 fit the context"),
]


@pytest.mark.parametrize(("line", "said"), BAD)
def test_a_bad_line_is_named(processor: Processor, tmp_path: Path, line: object, said: str) -> None:
    path = write(tmp_path, GOOD, line, GOOD)
    with pytest.raises(ValueError, match=r"1 bad lines; .* with --skip-bad: line 2: ") as error:
        read_jsonl(path, processor, longest=100)
    assert said in str(error.value)
    assert len(read_jsonl(path, processor, longest=100, skip_bad=True).rows) == 2
    assert read_jsonl(path, processor, longest=100, skip_bad=True).skipped == 1


def test_what_has_no_weight_is_only_read(processor: Processor, tmp_path: Path) -> None:
    """And a mark before the first line is none of it."""
    messages = [
        turn("user", "one?"), turn("assistant", "2", weight=0), turn("user", "Really?"),
        turn("assistant", "1", weight=1),
    ]  # fmt: skip
    path = write(tmp_path, {"messages": messages, "id": 7})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (row,), _ = read_jsonl(path, processor, longest=100)
    assert row.answer == (*processor.tokenizer.encode("1"), processor.end_of_turn_id)


def test_bytes_that_are_no_text(processor: Processor, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"prompt": "\xff", "completion": "a"}\n')
    with pytest.raises(ValueError, match="line 1: not UTF-8"):
        read_jsonl(path, processor, longest=100)


def test_many_bad_lines_are_counted(processor: Processor, tmp_path: Path) -> None:
    path = write(tmp_path, *["x"] * 14)
    with pytest.raises(ValueError, match=r"14 bad lines; .*line 10: .*; and 4 more$") as error:
        read_jsonl(path, processor, longest=100)
    assert "line 11" not in str(error.value)
    with pytest.raises(ValueError, match=r"no example to train on \(14 bad lines\)"):
        read_jsonl(path, processor, longest=100, skip_bad=True)


def test_no_file(processor: Processor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; give a JSONL file"):
        read_jsonl(tmp_path / "none.jsonl", processor, longest=100)

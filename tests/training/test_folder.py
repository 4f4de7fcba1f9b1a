"""A folder of texts: every token is learned once, in its place, and only a file's end is filled."""

from pathlib import Path

import pytest

from gesso.processor import Processor
from gesso.training.folder import read_data, read_folder
from tests.terminal.conftest import TINY

TEXT = "".join(f"line {n} of a story that goes on\n" for n in range(150))


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.load(TINY)


def test_every_token_is_an_answer_once_and_knows_what_went_before(
    processor: Processor, tmp_path: Path
) -> None:
    (tmp_path / "b.txt").write_text(TEXT)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "short.md").write_text("two words")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "empty.txt").write_text(" \n")
    rows, skipped = read_folder(tmp_path, processor, canvas_length=64, longest=8192)
    assert skipped == 0
    bos, eos = processor.tokenizer.id("<bos>"), processor.tokenizer.id("<eos>")
    assert rows[0] == ((bos,), (*processor.tokenizer.encode("two words"), eos))
    tokens = [*processor.tokenizer.encode(TEXT), eos]
    assert [token for row in rows[1:] for token in row.answer] == tokens
    assert len(rows) > 3
    place = 0
    for row in rows[1:]:
        context = tokens[max(0, place - 511) : place]
        assert row.prompt == (bos, *context)
        place += len(row.answer)
        # No canvas but a file's last has room for the fill.
        assert len(row.answer) % 64 == 0 or place == len(tokens)
        assert len(row.answer) <= 512


@pytest.mark.parametrize("longest", [128, 200])
def test_rows_fit_the_context(processor: Processor, tmp_path: Path, longest: int) -> None:
    (tmp_path / "text").write_text(TEXT)
    rows, _ = read_folder(tmp_path, processor, canvas_length=64, longest=longest)
    assert max(len(row.prompt) + len(row.answer) for row in rows) <= longest
    assert sum(len(row.answer) for row in rows) == len(processor.tokenizer.encode(TEXT)) + 1


def test_what_is_not_text_is_named(processor: Processor, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.bin").write_bytes(b"\xff\xfe\x00")
    keys = dict(canvas_length=64, longest=512)
    with pytest.raises(ValueError, match=r"1 bad files; mend them, or .*: bad\.bin: not UTF-8"):
        read_folder(tmp_path, processor, **keys)
    rows, skipped = read_folder(tmp_path, processor, skip_bad=True, **keys)
    assert (len(rows), skipped) == (1, 1)
    (tmp_path / "good.txt").unlink()
    with pytest.raises(ValueError, match=r"no example to train on \(1 bad files\)"):
        read_folder(tmp_path, processor, skip_bad=True, **keys)


def test_a_path_is_a_folder_or_a_file(processor: Processor, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    keys = dict(canvas_length=64, longest=512, skip_bad=False)
    (row,), _ = read_data(file, processor, **keys)
    assert row.prompt == tuple(processor.encode_prompt("a"))
    file.rename(tmp_path / "x.txt")
    (row,), _ = read_data(tmp_path, processor, **keys)
    assert row.prompt == (processor.tokenizer.id("<bos>"),)


def test_a_folder_of_examples(processor: Processor, tmp_path: Path) -> None:
    """Each file as if it were given alone, in the order of their names; no text among them."""
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").write_text("hidden")
    for name, prompt in (("a.jsonl", "one"), ("b/c.jsonl", "two")):
        (tmp_path / name).write_text(f'{{"prompt": "{prompt}", "completion": "x"}}\n')
    keys = dict(canvas_length=64, longest=512)
    rows, skipped = read_folder(tmp_path, processor, **keys)
    assert [row.prompt for row in rows] == [
        tuple(processor.encode_prompt(prompt)) for prompt in ("one", "two")
    ]
    assert skipped == 0
    with (tmp_path / "b" / "c.jsonl").open("a") as file:
        file.write('{"prompt": 1}\n')
    with pytest.raises(ValueError, match=r"1 bad lines; .*: b/c\.jsonl: line 2: keys prompt"):
        read_folder(tmp_path, processor, **keys)
    rows, skipped = read_folder(tmp_path, processor, skip_bad=True, **keys)
    assert (len(rows), skipped) == (2, 1)
    (tmp_path / "notes.md").write_text("about them")
    with pytest.raises(ValueError, match=r"examples \(a\.jsonl\) beside other files \(notes\.md\)"):
        read_folder(tmp_path, processor, skip_bad=True, **keys)

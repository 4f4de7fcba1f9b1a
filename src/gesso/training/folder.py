"""A folder to rows. Of text files, for continued training: the model learns how the texts go on.

    file      t0 t1 t2 …                                              <eos>
    rows      [<bos> : first piece], [<bos> text before : next piece], …

A piece is so many whole canvases, so that none but a file's last is filled with the end token.
JSONL files are examples, as one of them alone is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gesso.processor import Processor
from gesso.training.jsonl import Rows, read_jsonl, read_records, report_bad
from gesso.training.sources import Row

# Tokens that a piece is about as long as, and that it may look back at.
_PIECE = 512


def read_data(
    source: str | Path | Iterable[Mapping[str, Any]],
    processor: Processor,
    *,
    canvas_length: int,
    longest: int,
    skip_bad: bool,
) -> Rows:
    """Rows of a folder, of a JSONL file, or of objects in memory."""
    if not isinstance(source, str | Path):
        return read_records(source, processor, longest=longest, skip_bad=skip_bad)
    path = Path(source)
    if not path.is_dir():
        return read_jsonl(path, processor, longest=longest, skip_bad=skip_bad)
    return read_folder(
        path, processor, canvas_length=canvas_length, longest=longest, skip_bad=skip_bad
    )


def read_folder(
    folder: Path,
    processor: Processor,
    *,
    canvas_length: int,
    longest: int,
    skip_bad: bool = False,
) -> Rows:
    """All rows of the folder's files and its folders' files, in the order of their names: examples
    where all of them are .jsonl, else pieces of their text.

    Names that begin with a dot are passed over, and so are empty files. longest: most tokens of a
    row. ValueError: nothing to read, .jsonl files beside others, or files that are not UTF-8 text,
    or lines that are no examples, by name; with skip_bad these are left out and counted.
    """
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    names = [name for name in files if not any(part.startswith(".") for part in name.parts)]
    examples = [name for name in names if name.suffix == ".jsonl"]
    if examples and len(examples) == len(names):
        return read_jsonl(folder, processor, longest=longest, skip_bad=skip_bad, within=names)
    if examples:
        other = next(name for name in names if name not in examples)
        raise ValueError(
            f"{folder}: holds examples ({examples[0]}) beside other files ({other}); give a folder "
            "of .jsonl files alone, or of texts alone"
        )
    rows: list[Row] = []
    bad: list[str] = []
    for name in names:
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            bad.append(f"{name}: not UTF-8 text")
            continue
        if text.strip():
            rows += _pieces(text, processor, canvas_length=canvas_length, longest=longest)
    report_bad(str(folder), "files", bad, skip_bad=skip_bad, found=len(rows))
    return Rows(rows, len(bad))


def _pieces(text: str, processor: Processor, *, canvas_length: int, longest: int) -> Iterator[Row]:
    bos, eos = (processor.tokenizer.id(token) for token in ("<bos>", "<eos>"))
    tokens: Sequence[int] = [*processor.tokenizer.encode(text), eos]
    size = canvas_length * max(1, min(_PIECE, longest // 2) // canvas_length)
    before = max(0, min(_PIECE, longest - size) - 1)
    for first in range(0, len(tokens), size):
        context = tokens[max(0, first - before) : first]
        yield Row((bos, *context), tuple(tokens[first : first + size]))

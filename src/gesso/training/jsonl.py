"""A user's examples to rows: from a JSONL file, or from any iterable of such objects, a Hugging
Face dataset for one. All are read before training starts, and every bad one is reported by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gesso.processor import Processor
from gesso.tasks.jsonl import examples_of, quoted, read_lines
from gesso.training.sources import Row, tokenize


class Rows(NamedTuple):
    """What a file holds: rows to train on, and how many bad lines were left out."""

    rows: list[Row]
    skipped: int


def read_jsonl(
    path: Path,
    processor: Processor,
    *,
    longest: int,
    skip_bad: bool = False,
    within: Sequence[str | Path] = (),
) -> Rows:
    """All rows of a file (`gesso.tasks.jsonl`), or of the files of those names `within` a folder,
    in order. longest: most tokens of a row.

    ValueError: no such file, nothing to read, or bad lines, by number; with skip_bad they are left
    out and counted.
    """
    rows: list[Row] = []
    bad: list[str] = []
    for name in within or ("",):
        found, wrong = read_lines(path / name, lambda record, _: _rows(record, processor, longest))
        rows += found
        bad += [f"{name}: {line}" if name else line for line in wrong]
    report_bad(str(path), "lines", bad, skip_bad=skip_bad, found=len(rows))
    return Rows(rows, len(bad))


def read_records(
    records: Iterable[Mapping[str, Any]],
    processor: Processor,
    *,
    longest: int,
    skip_bad: bool = False,
) -> Rows:
    """As `read_jsonl`, from objects in memory; keys whose value is None are as good as absent."""
    rows: list[Row] = []
    bad: list[str] = []
    for number, record in enumerate(records):
        try:
            rows += _rows(_without_none(record), processor, longest)
        except ValueError as error:
            bad.append(f"record {number}: {error}")
    report_bad(type(records).__name__, "records", bad, skip_bad=skip_bad, found=len(rows))
    return Rows(rows, len(bad))


def report_bad(name: str, what: str, bad: list[str], *, skip_bad: bool, found: int) -> None:
    """ValueError for what is bad, unless it may be skipped, and when nothing was found."""
    if bad and not skip_bad:
        raise ValueError(
            f"{name}: {len(bad)} bad {what}; mend them, or leave them out with --skip-bad: "
            f"{quoted(bad)}"
        )
    if not found:
        raise ValueError(f"{name}: no example to train on ({len(bad)} bad {what}); add some")


def _without_none(value: Any) -> Any:
    """A table has every key in every row, and in every message: those not given are None."""
    if isinstance(value, Mapping):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


def _rows(record: Any, processor: Processor, longest: int) -> list[Row]:
    """All rows of a record, or none and a ValueError."""
    rows = [tokenize(example, processor) for example in examples_of(record)]
    for row in rows:
        if (length := len(row.prompt) + len(row.answer)) > longest:
            raise ValueError(f"{length:,} tokens; at most {longest:,} fit the context")
    return rows

"""The `infill` task: what was taken out of a Python function.

    prompt      Infill:\n<suffix>\n\nprint(area(2, 3))<prefix>def area(w, h):\n    return
    answer      w * h

What follows comes first, so that the answer goes on where the prompt ends, as code does (the order
SPM of arXiv 2207.14255): a small model need not look for the hole.

Functions come from this Python's own standard library, without their docstrings; what is hidden is
an expression, a line or some lines, and begins with no comment. Held out: whole modules, by a hash
of their name. Other versions of Python have other sources, so figures say which one they were
measured with.

`infill-line` hides lines alone; `infill-prefix` hides the same lines and shows nothing of what
follows them, which is all that a model who writes from left to right would see. `infill-body`
hides what follows a line of a function of any length, 480 characters of it with their comments, and
shows some lines before: a lesson rather than a question, for it gives the canvas far more to write.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import textwrap
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

from gesso.tasks.task import Example, check_split

ASKED, SUFFIX, PREFIX = "Infill:\n", "<suffix>", "<prefix>"
KINDS = ("expression", "line", "block")
# Functions of this many lines and characters; hidden text of this many characters.
FEWEST_LINES, LONGEST_FUNCTION = 3, 600
SHORTEST, LONGEST = 3, 160
# The same for bodies, and how much of what stands before them is shown at least, in whole lines.
LONGEST_WHOLE, LONGEST_BODY, SHOWN = 20_000, 480, 200
# One module in so many is held out.
HELD = 8
# Not for users; or their modules copy one another or others, so that none of them is unseen.
_LEFT_OUT = {
    "distutils", "encodings", "idle_test", "lib2to3", "site-packages", "test", "tests"
}  # fmt: skip


class InfillTask:
    """Holes in functions of the standard library. The contract is in the module's docstring."""

    splits: Mapping[str, str] = {
        "train": "functions of modules that training may see",
        "held": "functions of modules never seen in training",
    }

    def __init__(
        self, name: str = "infill", *, kinds: Sequence[str] = KINDS, suffix: bool = True
    ) -> None:
        """kinds: of what is hidden. suffix: whether the prompt goes on after the hole."""
        self.name = name
        self._kinds = kinds
        self._suffix = suffix
        self._longest = LONGEST_WHOLE if "body" in kinds else LONGEST_FUNCTION

    def examples(self, *, split: str, seed: int) -> Iterator[Example]:
        """An endless stream, the same for the same split and seed. ValueError: unknown split."""
        check_split(self, split)
        return self._stream(split, Random(f"infill:{split}:{seed}"))

    def verdict(self, example: Example, text: str) -> dict[str, float]:
        """exact: the hidden text; parses: the function is Python with it; similarity: of the two
        texts, by their longest common parts."""
        wanted, found = example.completion, text.strip("\n")
        whole = example.info["before"] + found + example.info["after"]
        likeness = difflib.SequenceMatcher(None, wanted, found, autojunk=False).ratio()
        return {
            "exact": float(found.strip() == wanted.strip()),
            "parses": float(_parse(whole) is not None),
            "similarity": likeness,
        }

    def _stream(self, split: str, rng: Random) -> Iterator[Example]:
        names = [name for name in sources() if is_held(name) == (split == "held")]
        # By their size, so that a function of a small module is not met more often than others.
        sizes = list(itertools.accumulate(sources()[name].stat().st_size for name in names))
        while True:
            [name] = rng.choices(names, cum_weights=sizes)
            found = functions(name, self._longest)
            source = rng.choice(found) if found else ""
            kind = rng.choice(self._kinds)
            hole = _hole(source, kind, rng) if source else None
            if hole is None:
                continue
            start, end = hole
            before, after = source[:start], source[end:]
            shown = before if kind != "body" else before[before.rfind("\n", 0, -SHOWN) + 1 :]
            yield Example(
                prompt=ASKED + f"{SUFFIX}{after}" * self._suffix + PREFIX + shown,
                completion=source[start:end],
                info={"kind": kind, "module": name, "before": before, "after": after},
            )


@cache
def sources() -> dict[str, Path]:
    """The modules by name, in order."""
    library = Path(textwrap.__file__).parent
    files = {file.relative_to(library): file for file in sorted(library.rglob("*.py"))}
    return {
        name.as_posix(): file
        for name, file in files.items()
        if not _LEFT_OUT & set(name.parent.parts)
    }


@cache
def functions(name: str, longest: int = LONGEST_FUNCTION) -> tuple[str, ...]:
    """A module's functions of a fitting size, without their indentation and docstrings."""
    text = sources()[name].read_text(encoding="utf-8", errors="replace")
    tree = _parse(text)
    if tree is None:
        return ()
    lines = text.splitlines()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            said = node.body[:1] if ast.get_docstring(node, clean=False) is not None else []
            own = _lines(node) - set().union(*map(_lines, said))
            source = textwrap.dedent("\n".join(lines[number - 1] for number in sorted(own)))
            fits = len(source) <= longest and source.count("\n") + 1 >= FEWEST_LINES
            if fits and _parse(source) is not None:
                found.append(source)
    return tuple(found)


def _hole(source: str, kind: str, rng: Random) -> tuple[int, int] | None:
    """Where the hidden text of that kind begins and ends; None when there is none that fits."""
    lines = source.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    spans: list[tuple[int, int]] = []
    if kind == "expression":
        tree = _parse(source)
        assert tree is not None
        for node in ast.walk(tree):
            if not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
                continue
            row = lines[node.lineno - 1].encode()
            assert node.end_col_offset is not None
            # Columns count bytes.
            first = len(row[: node.col_offset].decode())
            last = len(row[: node.end_col_offset].decode())
            spans.append((starts[node.lineno - 1] + first, starts[node.lineno - 1] + last))
    elif kind == "body":
        # As much as may be hidden, from wherever that much follows.
        first = rng.randint(1, max(1, sum(s < len(source) - LONGEST_BODY for s in starts) - 1))
        start = starts[first + 1] - 1 - len(lines[first].lstrip())
        ends = [end - 1 for end in starts[first + 1 :] if end - 1 <= start + LONGEST_BODY]
        whole = source[start : ends[-1]].rstrip("\n") if ends else ""
        return (start, start + len(whole)) if whole and lines[first].strip() else None
    else:
        count = 1 if kind == "line" else rng.randint(2, 5)
        for first in range(1, len(lines) - count + 1):
            code = lines[first].lstrip()
            if code and not code.startswith("#") and lines[first + count - 1].strip():
                spans.append((starts[first + 1] - 1 - len(code), starts[first + count] - 1))
    fitting = [(a, b) for a, b in spans if SHORTEST <= b - a <= LONGEST]
    return rng.choice(fitting) if fitting else None


def _lines(node: ast.stmt) -> set[int]:
    assert node.end_lineno is not None
    return set(range(node.lineno, node.end_lineno + 1))


def _parse(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the text's own making
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def is_held(name: str) -> bool:
    """Whether a module belongs to the held-out ones."""
    return zlib.crc32(name.encode()) % HELD == 0

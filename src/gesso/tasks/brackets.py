"""The `brackets` task: what closes everything that is open, innermost first.

    prompt      Close: a({b}[
    answer      ])

Held out: texts by a hash of the prompt.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from random import Random

from gesso.tasks.task import Example, check_split

PREFIX = "Close: "
PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
LETTERS = "abcxyz"
# Most marks of a text; one prompt in so many is held out.
LONGEST = 32
HELD = 8


class BracketsTask:
    """Open brackets of four kinds among closed ones and letters."""

    name = "brackets"
    splits: Mapping[str, str] = {
        "train": "texts that training may see",
        "held": "texts never seen in training",
    }

    def examples(self, *, split: str, seed: int) -> Iterator[Example]:
        """An endless stream, the same for the same split and seed. ValueError: unknown split."""
        check_split(self, split)
        return self._stream(split, Random(f"{self.name}:{split}:{seed}"))

    def verdict(self, example: Example, text: str) -> dict[str, float]:
        """exact: just the brackets wanted; prefix: the share of them before the first mistake."""
        wanted, found = example.completion, text.strip()
        right = next((i for i, c in enumerate(wanted) if found[i : i + 1] != c), len(wanted))
        return {"exact": float(found == wanted), "prefix": right / len(wanted)}

    def _stream(self, split: str, rng: Random) -> Iterator[Example]:
        while True:
            marks: list[str] = []
            still_open: list[str] = []
            for _ in range(rng.randint(1, LONGEST)):
                roll = rng.random()
                if roll < 0.2:
                    marks.append(rng.choice(LETTERS))
                elif roll < 0.5 and still_open:
                    marks.append(PAIRS[still_open.pop()])
                else:
                    still_open.append(rng.choice(list(PAIRS)))
                    marks.append(still_open[-1])
            text = "".join(marks)
            if still_open and is_held(text) == (split == "held"):
                closing = "".join(PAIRS[mark] for mark in reversed(still_open))
                yield Example(
                    prompt=PREFIX + text,
                    completion=closing,
                    info={"kind": f"{(len(closing) - 1) // 4 * 4 + 1}+ open"},
                )


def is_held(text: str) -> bool:
    """Whether a text belongs to the held-out ones."""
    return zlib.crc32(text.encode()) % HELD == 0

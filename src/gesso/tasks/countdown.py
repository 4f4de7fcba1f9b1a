"""The `countdown` task: reach a target from all the given numbers, each used once.

    prompt      Countdown: 3 25 7 8 -> 56
    answer      3*8=24\n25+7=32\n24+32=56

One operation a line, whose result may be used like a number; the last one's is the target. Held
out: sets of numbers, so no held-out puzzle has the numbers of one that was trained on.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from random import Random

from gesso.tasks.task import Example, check_split

PREFIX = "Countdown: "
COUNTS = (3, 4)
LARGEST, LARGEST_RESULT = 50, 999
# One set of numbers in so many is held out.
HELD = 8
_LINE = re.compile(r"(\d{1,6})([-+*/])(\d{1,6})=(\d{1,6})")
_OPERATIONS: dict[str, Callable[[int, int], int | None]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b if a > b else None,
    "*": lambda a, b: a * b if min(a, b) > 1 else None,
    "/": lambda a, b: a // b if b > 1 and a % b == 0 else None,
}


class CountdownTask:
    """Three or four numbers and a target that they reach in whole, positive steps."""

    name = "countdown"
    splits: Mapping[str, str] = {
        "train": "sets of numbers that training may see",
        "held": "sets of numbers never seen in training",
    }

    def examples(self, *, split: str, seed: int) -> Iterator[Example]:
        """An endless stream, the same for the same split and seed. ValueError: unknown split."""
        check_split(self, split)
        return self._stream(split, Random(f"{self.name}:{split}:{seed}"))

    def verdict(self, example: Example, text: str) -> dict[str, float]:
        """exact: any right way to the target; same: the very lines of the example."""
        numbers, target = read(str(example.prompt))
        return {
            "exact": float(reaches(text, numbers, target)),
            "same": float(text.strip() == example.completion),
        }

    def _stream(self, split: str, rng: Random) -> Iterator[Example]:
        while True:
            numbers = [rng.randint(1, LARGEST) for _ in range(rng.choice(COUNTS))]
            if is_held(numbers) != (split == "held"):
                continue
            lines = _solution(numbers, rng)
            if lines:
                target = lines[-1].split("=")[1]
                yield Example(
                    prompt=f"{PREFIX}{' '.join(map(str, numbers))} -> {target}",
                    completion="\n".join(lines),
                    info={"kind": f"{len(numbers)} numbers"},
                )


def _solution(numbers: list[int], rng: Random) -> list[str]:
    """Lines that use up all numbers at random; none when that leads nowhere."""
    left = list(numbers)
    lines: list[str] = []
    while len(left) > 1:
        rng.shuffle(left)
        a, b = left.pop(), left.pop()
        sign = rng.choice("+-*/")
        result = _OPERATIONS[sign](a, b)
        if result is None or result > LARGEST_RESULT:
            return []
        lines.append(f"{a}{sign}{b}={result}")
        left.append(result)
    return lines


def read(prompt: str) -> tuple[list[int], int]:
    """Numbers and target of a prompt."""
    numbers, target = prompt.removeprefix(PREFIX).split(" -> ")
    return [int(number) for number in numbers.split()], int(target)


def reaches(text: str, numbers: list[int], target: int) -> bool:
    """Whether the lines are right sums over what is there, use all of it up, and end in target."""
    left = Counter(numbers)
    for line in text.strip().split("\n"):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            return False
        a, b, result = int(match[1]), int(match[3]), int(match[4])
        for number in (a, b):
            if not left[number]:
                return False
            left[number] -= 1
        if _OPERATIONS[match[2]](a, b) != result:
            return False
        left[result] += 1
    return +left == Counter([target])


def is_held(numbers: list[int]) -> bool:
    """Whether a set of numbers belongs to the held-out ones, in whatever order it is given."""
    return zlib.crc32(str(sorted(numbers)).encode()) % HELD == 0

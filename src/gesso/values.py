"""Values that others wrote, checked: an error says which one, what was got and what is expected.

`raw` is an object of a JSON file and `where` its place in there, from the top down; the top is "".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. ValueError names the file when it is missing or not an object."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{path}: no such file; a checkpoint folder holds it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw


@contextmanager
def naming(what: Path | str) -> Iterator[None]:
    """Puts the name of a file, or of what is in it, before the error of what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def whole(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """The value; ValueError unless it is a whole number in the range."""
    wanted = f"at least {low}" if high is None else f"between {low} and {high}"
    try:
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            raise TypeError
        found = index(value)
    except TypeError:  # a tensor or an array may be one, and says so only when it is asked
        raise ValueError(
            f"{name}: got {value!r:.80}; a whole number {wanted} is expected"
        ) from None
    if found < low or (high is not None and found > high):
        raise ValueError(f"{name}: got {found}; expected {wanted}")
    return found


def truth(name: str, value: object) -> bool:
    """The value; ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r:.80}; True or False is expected")
    return value


def number(name: str, value: object, *, zero: bool = False) -> float:
    """The value; ValueError unless it is a number above 0 that float32 has room for, or with
    `zero` 0 itself."""
    wanted = "number of at least 0" if zero else "number above 0"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: got {value!r:.80}; expected a {wanted}")
    if not (value > 0 or (zero and value == 0)):
        raise ValueError(f"{name}: got {value!r}; expected a {wanted}")
    if value and not 1e-30 <= value <= 1e30:  # float32, which it will meet, goes little further
        raise ValueError(f"{name}: got {value!r:.80}; expected a finite {wanted}, 1e-30 to 1e30")
    return value


def required(raw: Mapping[str, Any], key: str, where: str) -> Any:
    if raw.get(key) is None:
        raise ValueError(f"{where + ': ' if where else ''}required key {key!r} is missing")
    return raw[key]


def only(raw: Mapping[str, Any], where: str, **allowed: Sequence[Any]) -> None:
    """Refuse a setting that changes the maths in a way that this network does not compute."""
    for key, values in allowed.items():
        if raw.get(key) not in values:
            raise ValueError(
                f"{place(where, key)}: got {raw[key]!r}; only {values[0]!r} is supported"
            )


def place(where: str, key: str) -> str:
    """Of a key of the file, from its top down; the top itself is ""."""
    return f"{where}.{key}" if where else key


def value_or(raw: Mapping[str, Any], key: str, default: Any) -> Any:
    """null is as good as absent."""
    return default if raw.get(key) is None else raw[key]


def section(raw: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = required(raw, key, where)
    if not isinstance(value, Mapping):
        raise ValueError(f"{place(where, key)}: got {value!r:.80}; an object is expected")
    return value


def size(raw: Mapping[str, Any], key: str, where: str) -> int:
    return whole(place(where, key), required(raw, key, where), low=1)


def positive(raw: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    """default None: there is none, and the key is required."""
    value = required(raw, key, where) if default is None else value_or(raw, key, default)
    return float(number(place(where, key), value))


def token_id(raw: Mapping[str, Any], key: str, where: str) -> int | None:
    value = raw.get(key)
    return None if value is None else whole(place(where, key), value, low=0)


def token_ids(name: str, value: object) -> tuple[int, ...]:
    listed = value if isinstance(value, list | tuple) else (value,)
    return tuple(whole(name, each, low=0) for each in listed)

"""The shield: text from outside can spell a control token, but never become one.

A chat template renders trusted structure and untrusted contents into one string, so afterwards
`<|turn>` written by the template and `<|turn>` typed by a user look the same. The contents are
therefore shielded before rendering: a mark goes in after the first character of every special
token's spelling. The rendered string is cut at the marks and the pieces are tokenised one by one,
so that no piece holds a forged spelling whole.

- Contents without such spellings carry no mark: the string is tokenised whole, merges across the
  borders between structure and contents included, and the ids are those of plain rendering.
- The mark is U+D800, a lone surrogate. No text that can be tokenised holds one (UTF-8 has no form
  for it), so nothing needs escaping, and `trim`, `upper`, `tojson` leave it alone.
- A template may set two contents side by side (parts, consecutive assistant messages), which could
  complete a spelling that one of them began. So a text that ends in the beginning of a special
  token is marked at its end as well, before trailing whitespace, which templates trim.

What the template itself writes is trusted. A special token of a single character cannot be cut;
none exists in this family of tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

MARK = "\ud800"
_SURROGATE = re.compile("[\ud800-\udfff]")


def require_encodable(text: str) -> None:
    """ValueError when `text` holds a lone surrogate, which UTF-8 cannot write."""
    if not (found := _SURROGATE.search(text)):
        return
    code, place = ord(found[0]), f"at character {found.start()}"
    if 0xDC80 <= code <= 0xDCFF:  # so does Python read a byte that is no text (PEP 383)
        raise ValueError(
            f"text cannot be encoded: byte 0x{code - 0xDC00:02X} {place} is no text in the "
            "encoding it was read with; send UTF-8"
        )
    raise ValueError(
        f"text cannot be encoded: lone surrogate U+{code:04X} {place}; it is half of a character, "
        "so send the whole one or drop it"
    )


class Shield:
    """Marks the spellings of special tokens inside text from outside."""

    def __init__(self, spellings: Iterable[str]) -> None:
        longest_first = sorted(set(spellings), key=lambda s: (-len(s), s))
        # A lookahead finds overlapping spellings too; each is cut after its first character.
        anyone = "|".join(map(re.escape, longest_first))
        self._starts = re.compile(f"(?=(?:{anyone}))(.)", re.DOTALL) if longest_first else None
        self._beginnings = tuple(sorted({s[:n] for s in longest_first for n in range(1, len(s))}))

    def text(self, text: str) -> str:
        """`text` with every special spelling marked. ValueError: a lone surrogate."""
        require_encodable(text)
        if self._starts is None:
            return text
        body = text.rstrip()
        tail = text[len(body) :]
        ending = MARK if body.endswith(self._beginnings) else ""
        return self._starts.sub(rf"\1{MARK}", body) + ending + tail

    def tree(self, value: Any) -> Any:
        """A JSON value with all its strings, keys included, shielded."""
        return _map_strings(value, self.text)


def unmarked(value: Any) -> Any:
    """A JSON value without the marks in its strings."""
    return _map_strings(value, lambda text: text.replace(MARK, ""))


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return value

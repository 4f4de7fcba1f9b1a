"""Text deltas from token ids as they arrive.

Law: the deltas, joined, are `tokenizer.decode` of all the ids, whatever the chunks.

In this family's tokenizers every token decodes alone, except for byte tokens (`<0xE2>`): a run of
them is decoded together, and one invalid byte turns the whole run into replacement characters. So
a run is held back until a visible token ends it. That is later than the last byte of a character,
but earlier would mean taking text back. Each id is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterable

from gesso.processor.tokenizer import Tokenizer


class StreamDecoder:
    """`push` ids, get text; `finish` gives what was held back."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._held: list[int] = []

    def push(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete; may be empty."""
        fresh = self._tokenizer.visible(ids, skip_special=self._skip_special)
        settled = len(fresh)
        while settled and fresh[settled - 1] in self._tokenizer.byte_ids:
            settled -= 1
        if not settled:
            self._held += fresh
            return ""
        text = self._tokenizer.decode(self._held + fresh[:settled], skip_special=False)
        self._held = fresh[settled:]
        return text

    def finish(self) -> str:
        """The rest of the text, after the last push; an unfinished character becomes U+FFFD."""
        text = self._tokenizer.decode(self._held, skip_special=False)
        self._held = []
        return text

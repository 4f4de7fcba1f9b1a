"""The checkpoint's tokenizer: text to token ids and back.

A thin, stateless wrapper around the `tokenizers` package. It adds three things: ids looked up by
name instead of written as literals, special tokens in text recognised only on request, and one
definition of "special" shared by encoding and decoding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from gesso.processor.shield import MARK, Shield, require_encodable
from gesso.values import read_json

# Control tokens of this family are spelt with a bar. Some exports leave out their `special` flag;
# a user must not be able to type them either way.
_CONTROL = re.compile(r"<\|[^<>]*>|<[^<>]*\|>")

# The names under which chat templates read special tokens, with this family's spellings for
# folders without a tokenizer_config.json.
_SPELLINGS = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}


class Tokenizer:
    """Encodes and decodes text; safe to share between threads.

    `named` maps `bos_token`, `eos_token`, ... to their spellings, as chat templates want them.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, *, named: Mapping[str, str] = _SPELLINGS
    ) -> None:
        # A stored truncation or padding would silently change prompts.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.named = {
            name: token for name, token in named.items() if backend.token_to_id(token) is not None
        }
        self.specials: dict[str, int] = {
            added.content: token_id
            for token_id, added in backend.get_added_tokens_decoder().items()
            if added.special or _CONTROL.fullmatch(added.content)
        }
        self.special_ids = frozenset(self.specials.values())
        byte_ids = (backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        self.byte_ids = frozenset(token_id for token_id in byte_ids if token_id is not None)
        self.shield = Shield(self.specials)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token's id."""
        return self._backend.get_vocab(with_added_tokens=True)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json, and the named special tokens from tokenizer_config.json if present.

        ValueError: tokenizer.json is missing, or one of the two cannot be read.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(
                f"no tokenizer.json in {str(folder)!r}; "
                "copy the one that ships with the checkpoint's weights into the folder"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exception
            raise ValueError(
                f"cannot read {str(path)!r}: {error}; "
                "fetch the file again, or use a newer `tokenizers` package"
            ) from error
        return cls(backend, named=_SPELLINGS | _named_tokens(Path(folder)))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special and added ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Token ids of `text`; bos is not added.

        With `specials`, a special token's spelling becomes that token; without, it is ordinary text
        (see shield.py). ValueError: a lone surrogate.
        """
        require_encodable(text)
        return self.encode_shielded(text if specials else self.shield.text(text))

    def encode_shielded(self, text: str) -> list[int]:
        """Token ids of text in which all that came from outside went through `self.shield`."""
        ids: list[int] = []
        for piece in text.split(MARK):
            ids += self._backend.encode(piece, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; ids outside the vocabulary are skipped (a model's head may be padded)."""
        kept = [
            token_id
            for token_id in ids
            if not (skip_special and token_id in self.special_ids)
            and self._backend.id_to_token(token_id) is not None
        ]
        return self._backend.decode(kept, skip_special_tokens=False)

    def token(self, token_id: int) -> str:
        """The token's spelling in the vocabulary. ValueError: no such id."""
        token = self._backend.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise ValueError(
                f"no token has the id {token_id}; the vocabulary holds {self.vocab_size} tokens"
            )
        return token

    def id(self, token: str) -> int:
        """The token's id. ValueError: not in the vocabulary."""
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise ValueError(
                f"the vocabulary has no token {token!r}; "
                "check its spelling, or that the tokenizer belongs to this checkpoint"
            )
        return token_id


def _named_tokens(folder: Path) -> dict[str, str]:
    """`bos_token` etc. from tokenizer_config.json: each a string, or an object with `content`."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    entries = ((name, value) for name, value in read_json(path).items() if name.endswith("_token"))
    spelled = (
        (name, value.get("content") if isinstance(value, dict) else value)
        for name, value in entries
    )
    return {name: token for name, token in spelled if isinstance(token, str)}

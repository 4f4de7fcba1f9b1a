"""The tokenizer of the tiny checkpoint: Gemma's format at a small vocabulary.

Same machinery as the published tokenizer (BPE with byte fallback, spaces as U+2581, no prefix
space), with one deliberate difference: text is cut before merging, so that a word is split into
the same pieces wherever it stands. Gemma merges a space into the word after it, and a word at the
start of a line is then another token than the same word in a sentence; a small model that has to
copy names cannot afford that. Cuts of prose: runs of spaces, single newlines, single digits, runs
of letters, runs of everything else (so `","` and `":` can become one token). Those of Python give
a space to the keyword or the sign beside it (`return `, ` in `, ` = `, `, `), and `self.` is one: a
line has three tenths fewer tokens, and its names still stand alone.

Every text without special spellings comes back exactly, but for U+2581 itself, which comes back as
a space, as in Gemma: the decoder cannot tell the two apart.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIALS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|turn>",
    "<turn|>",
    "<|image>",
    "<|image|>",
    "<image|>",
    "<|video|>",
)
NEWLINE = "\n"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPACE = "\u2581"
# Always in the vocabulary, seen in the texts or not: one token a character.
ALPHABET = (SPACE, *map(chr, range(0x21, 0x7F)))

_SIGN = rf"[^{SPACE}\n\p{{N}}\p{{L}}\p{{M}}_]"
_BETWEEN = "and|as|else|for|from|if|import|in|is|not|or"
PROSE = rf"{SPACE}+|\n|\p{{N}}|(?:\p{{L}}\p{{M}}*)+|[^{SPACE}\n\p{{N}}\p{{L}}]+"
PYTHON = "|".join(
    (
        rf"{SPACE}{{2,}}|\n|\p{{N}}|self\.",
        rf"{SPACE}(?:{_BETWEEN}){SPACE}|(?:{'|'.join(keyword.kwlist)}){SPACE}",
        rf"[\p{{L}}\p{{M}}_]+|{SPACE}?{_SIGN}+(?:{SPACE}(?!{SPACE}))?|{SPACE}",
    )
)
# Every vocabulary begins with specials, newline and bytes, whatever it learned.
FIXED = len(SPECIALS) + 1 + len(BYTES)
_SMALLEST = FIXED + len(ALPHABET)


def build_tokenizer(texts: Iterable[str], *, vocab_size: int, cuts: str = PROSE) -> Tokenizer:
    """Learn merges from `texts`. Ids: specials, newline, bytes, characters, merges.

    cuts: a pattern of the pieces that no merge goes beyond; a newline is one of them.

    The vocabulary is smaller than `vocab_size` when the texts have no more pairs to merge. The
    rarest characters of the texts are left to byte fallback when they would fill more than half
    of the room. ValueError: `vocab_size` has no room for the fixed tokens.
    """
    if vocab_size < _SMALLEST:
        raise ValueError(
            f"vocab_size is {vocab_size}, but the fixed tokens alone are {_SMALLEST}; raise it"
        )
    learned, merges = _learn(texts, cuts, size=vocab_size - FIXED)
    tokens = [*SPECIALS, NEWLINE, *BYTES, *learned]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    assert tokenizer.get_vocab_size() == len(tokens), "a learned token repeats a fixed one"
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = _cut(cuts)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos> $B",
        special_tokens=[("<bos>", SPECIALS.index("<bos>"))],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json, and the tokenizer_config.json that other software reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(tokenizer_config(), indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def tokenizer_config() -> dict[str, Any]:
    """The content of tokenizer_config.json, for other software that reads the folder."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }


def _learn(
    texts: Iterable[str], cuts: str, *, size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """Characters and merged tokens in order of id, and the merges."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", SPACE)
    learner.pre_tokenizer = _cut(cuts)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=list(ALPHABET),
        limit_alphabet=max(len(ALPHABET), size // 2),
        show_progress=False,
    )
    learner.train_from_iterator(_ordinary_text(texts), trainer)
    model = json.loads(learner.to_str())["model"]
    learned = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return learned, [(left, right) for left, right in model["merges"]]


def _ordinary_text(texts: Iterable[str]) -> Iterator[str]:
    """The texts without special spellings, which must not be learned as merges, or newlines,
    which have their token."""
    fixed = re.compile("|".join(map(re.escape, (*SPECIALS, NEWLINE))))
    return (piece for text in texts for piece in fixed.split(text))


def _cut(cuts: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(cuts), behavior="isolated")

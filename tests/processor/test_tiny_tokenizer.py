"""The recipe of the tiny checkpoint's tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from recipes.tiny_tokenizer import ALPHABET, BYTES, PYTHON, SPECIALS, build_tokenizer

TEXTS = ['the name is "Ada","age":36\n', "the  name of Ada <|turn> naïve"] * 3


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return build_tokenizer(TEXTS, vocab_size=420)


@pytest.fixture(scope="module")
def python() -> Tokenizer:
    texts = ["    return self.area if x in (y,) is not None\n", "x = y, z", "selfish returns"] * 3
    return build_tokenizer(texts, vocab_size=480, cuts=PYTHON)


def tokens(tiny: Tokenizer, text: str) -> list[str]:
    return tiny.encode(text, add_special_tokens=False).tokens


def test_ids_start_with_specials_newline_bytes_characters(tiny: Tokenizer) -> None:
    first = [tiny.id_to_token(i) for i in range(len(SPECIALS) + 1 + len(BYTES))]
    assert first == [*SPECIALS, "\n", *BYTES]
    assert SPECIALS[:5] == ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    assert set(ALPHABET) <= set(tiny.get_vocab())


@given(st.text() | st.text(alphabet=" \n\t\r<|>0a🙂é_") | st.text(alphabet="if n_(, =."))
def test_text_comes_back(tiny: Tokenizer, python: Tokenizer, text: str) -> None:
    if any(special in text for special in SPECIALS):
        return
    for tokenizer in (tiny, python):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")
        assert tokenizer.token_to_id("<unk>") not in ids


@given(st.from_regex(r"[^\W\d_]{1,8}", fullmatch=True), st.sampled_from(["", " ", "\n", "(", "7"]))
def test_a_word_is_split_the_same_wherever_it_stands(
    tiny: Tokenizer, word: str, before: str
) -> None:
    for after in ("", " ", "\n", ",", "7"):
        expected = tokens(tiny, before) + tokens(tiny, word) + tokens(tiny, after)
        assert tokens(tiny, before + word + after) == expected


def test_cuts(tiny: Tokenizer) -> None:
    assert tokens(tiny, "the name") == ["the", "▁", "name"]
    assert tokens(tiny, "36\n\n7") == ["3", "6", "\n", "\n", "7"]
    assert tokens(tiny, '","') == ['","']
    assert tokens(tiny, "🙂") == ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]


def test_cuts_of_python(python: Tokenizer) -> None:
    text = "    return self.area if x in (y,) is not None"
    assert tokens(python, text) == [
        *("▁▁▁▁", "return▁", "self.", "area", "▁if▁", "x", "▁in▁", "("),
        *("y", ",)▁", "is▁", "not▁", "None"),
    ]
    assert tokens(python, "x = y, z") == ["x", "▁=▁", "y", ",▁", "z"]
    # Only whole keywords take a space, and a name is the same wherever it stands.
    assert tokens(python, "returns selfish") == [*tokens(python, "returns"), "▁", "selfish"]


def test_building_is_deterministic() -> None:
    first, second = (build_tokenizer(TEXTS, vocab_size=420).to_str() for _ in range(2))
    assert first == second


def test_vocabulary_size() -> None:
    smallest = len(SPECIALS) + 1 + len(BYTES) + len(ALPHABET)
    rare = "".join(map(chr, range(0x4E00, 0x4F00)))
    for size in (smallest, smallest + 1, smallest + 10):
        tiny = build_tokenizer([rare, *TEXTS], vocab_size=size)
        assert tiny.get_vocab_size() == size
        assert set(ALPHABET) <= set(tiny.get_vocab())
    assert build_tokenizer([], vocab_size=9999).get_vocab_size() == smallest
    with pytest.raises(ValueError, match=f"the fixed tokens alone are {smallest}"):
        build_tokenizer(TEXTS, vocab_size=smallest - 1)


def test_specials_in_the_texts_are_not_learned() -> None:
    tiny = build_tokenizer(['<|"|><|"|><|"|>ab<|"|>'] * 9, vocab_size=500)
    learned = sorted(tiny.get_vocab(), key=tiny.get_vocab().__getitem__)[len(SPECIALS) :]
    assert [token for token in learned[1 + len(BYTES) :] if token not in ALPHABET] == ["ab"]

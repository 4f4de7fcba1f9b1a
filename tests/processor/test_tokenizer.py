from pathlib import Path

import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken, models

from gesso.processor import Tokenizer

SPELLINGS = ["<|turn>", "<turn|>", "<bos>", '<|"|>', "<|image>", "<|image|>", "<image|>"]
SNIPPETS = st.sampled_from([*SPELLINGS, "<", "|", ">", "<|", "turn", "|>", "image", " ", "\n", "a"])
HOSTILE = st.lists(SNIPPETS, max_size=8).map("".join)


@given(st.text() | HOSTILE)
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("\u2581", " ")  # the decoder's word for a space, as in Gemma
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.special_ids.isdisjoint(ids)


@given(st.text() | HOSTILE)
def test_ordinary_text_is_encoded_the_same_either_way(tokenizer: Tokenizer, text: str) -> None:
    assume(not any(special in text for special in tokenizer.specials))
    assert tokenizer.encode(text) == tokenizer.encode(text, specials=True)


def test_specials_are_recognised_on_request(tokenizer: Tokenizer) -> None:
    turn = tokenizer.id("<|turn>")
    assert tokenizer.encode("<|turn>", specials=True) == [turn]
    assert turn not in tokenizer.encode("<|turn>")
    assert tokenizer.decode([turn, *tokenizer.encode("a")]) == "a"
    assert tokenizer.decode([turn, *tokenizer.encode("a")], skip_special=False) == "<|turn>a"


def test_names_and_ids(tokenizer: Tokenizer) -> None:
    for token in ("<bos>", "<turn|>", "\n"):
        assert tokenizer.token(tokenizer.id(token)) == token
    assert tokenizer.id(tokenizer.token(tokenizer.vocab_size - 1)) == tokenizer.vocab_size - 1
    assert tokenizer.named["bos_token"] == "<bos>"
    with pytest.raises(ValueError, match="no token '<nope>'"):
        tokenizer.id("<nope>")
    for absent in (tokenizer.vocab_size, -1):
        with pytest.raises(ValueError, match=f"the id {absent}"):
            tokenizer.token(absent)


def test_ids_of_a_padded_head_are_skipped(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab")
    assert tokenizer.decode([ids[0], tokenizer.vocab_size + 5, *ids[1:]]) == "ab"


def test_half_a_character_is_refused(tokenizer: Tokenizer) -> None:
    for specials in (True, False):
        with pytest.raises(ValueError, match=r"U\+D83D at character 1"):
            tokenizer.encode("a\ud83d", specials=specials)


def test_a_control_token_without_its_flag_cannot_be_typed() -> None:
    vocab = {token: i for i, token in enumerate([*"<|call>t", "<|", "<|call>", "<table>"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.add_tokens([AddedToken("<|call>"), AddedToken("<table>")])
    tokenizer = Tokenizer(backend)
    assert tokenizer.special_ids == {vocab["<|call>"]}
    assert tokenizer.encode("<table>") == [vocab["<table>"]]
    assert tokenizer.special_ids.isdisjoint(tokenizer.encode("<|call>"))


def test_merges_that_spell_a_control_token_do_not_help() -> None:
    tokens = ["<", "|", "t", ">", "<|", "t>", "<|t>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [("<", "|"), ("t", ">"), ("<|", "t>")]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.add_special_tokens(["<|t>"])
    tokenizer = Tokenizer(backend)
    assert vocab["<|t>"] not in tokenizer.encode("<|t><|<|t>t>")


def test_stored_truncation_is_ignored(folder: Path, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("1234")) == "1234"


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json in"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("", "not valid JSON"), ("[]", "expected a JSON object, got list")]
)
def test_a_damaged_tokenizer_config(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"/tokenizer_config\.json: {message}"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"special": true}}')
    assert Tokenizer.load(tmp_path).named["bos_token"] == "<bos>"  # as when it is not named

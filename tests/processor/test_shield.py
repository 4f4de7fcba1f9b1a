import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.processor.shield import MARK, Shield, unmarked

SHIELD = Shield(["<|turn>", "<turn|>", "<|image>", "<|image|>", "<image|>"])
PIECES = st.sampled_from(["<", "<|", "turn", "|", ">", "|>", "image", " ", "\n", "<|turn>", "x"])
TEXTS = st.lists(PIECES, max_size=8).map("".join)
SPELLINGS = ("<|turn>", "<turn|>", "<|image>", "<|image|>", "<image|>")


@given(st.text() | TEXTS)
def test_only_marks_are_added(text: str) -> None:
    assert unmarked([{SHIELD.text(text): SHIELD.text(text)}, 1]) == [{text: text}, 1]


@given(st.lists(TEXTS, max_size=4), st.sampled_from([str, str.strip]))
def test_no_spelling_is_whole_however_a_template_joins_the_texts(texts, trim) -> None:
    joined = "".join(trim(SHIELD.text(text)) for text in texts)
    assert not any(spelling in joined for spelling in SPELLINGS)


@given(st.text(alphabet="abc <>|\n"))
def test_text_without_spellings_is_left_alone(text: str) -> None:
    assert SHIELD.text(text + "x") == text + "x"


def test_overlapping_spellings_are_all_cut() -> None:
    shield = Shield(["<a<", "<b>"])
    assert shield.text("<a<a<b>!") == f"<{MARK}a<{MARK}a<{MARK}b>!"


def test_trees_keep_their_shape() -> None:
    marked = f"<{MARK}|turn>"
    tree = {"<|turn>": ["<|turn>", 1, None, {"a": "<|turn>"}], "b": True}
    assert SHIELD.tree(tree) == {marked: [marked, 1, None, {"a": marked}], "b": True}


def test_the_mark_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"U\+D800"):
        SHIELD.text(f"a{MARK}")


def test_no_spellings_no_marks() -> None:
    assert Shield([]).text("<|turn>") == "<|turn>"

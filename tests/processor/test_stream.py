from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gesso.processor import StreamDecoder, Tokenizer

CHUNKS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def deltas(
    tokenizer: Tokenizer, ids: Sequence[int], sizes: Sequence[int], *, skip_special: bool = True
) -> list[str]:
    """The deltas of `ids` in chunks of the given sizes, over and over, and of the end."""
    decoder = StreamDecoder(tokenizer, skip_special=skip_special)
    texts, start = [], 0
    while start < len(ids):
        size = sizes[len(texts) % len(sizes)]
        texts.append(decoder.push(ids[start : start + size]))
        start += size
    return [*texts, decoder.finish()]


@given(st.data(), CHUNKS, st.booleans())
def test_deltas_join_to_the_full_decode_of_any_ids(
    tokenizer: Tokenizer, data: st.DataObject, sizes: list[int], skip_special: bool
) -> None:
    # Byte tokens, specials and ids beyond the vocabulary are common, so invalid UTF-8 is too.
    byte_id = st.sampled_from(sorted(tokenizer.byte_ids))
    any_id = st.integers(0, tokenizer.vocab_size + 3)
    special_id = st.sampled_from(sorted(tokenizer.special_ids))
    ids = data.draw(st.lists(byte_id | any_id | special_id, max_size=40))
    texts = deltas(tokenizer, ids, sizes, skip_special=skip_special)
    assert "".join(texts) == tokenizer.decode(ids, skip_special=skip_special)


@given(st.text(), CHUNKS)
def test_no_delta_holds_half_a_character(tokenizer: Tokenizer, text: str, sizes: list[int]) -> None:
    text = text.replace("\u2581", " ").replace("\ufffd", "")
    texts = deltas(tokenizer, tokenizer.encode(text), sizes)
    assert "".join(texts) == text
    assert not any("\ufffd" in delta for delta in texts)


def test_a_character_split_over_pushes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🙂b")
    assert deltas(tokenizer, ids, [1]) == ["a", "", "", "", "", "🙂b", ""]


def test_an_unfinished_character_appears_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🙂")[:-1]
    assert deltas(tokenizer, ids, [1])[-1] == "\ufffd" * 3


def test_the_work_is_linear(tokenizer: Tokenizer) -> None:
    class Counting:
        """The decoder's view of a tokenizer, counting the ids that it decodes."""

        byte_ids = tokenizer.byte_ids
        visible = staticmethod(tokenizer.visible)
        decoded = 0

        def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
            self.decoded += len(ids)
            return tokenizer.decode(ids, skip_special=skip_special)

    counting = Counting()
    ids = tokenizer.encode("The canvas 🙂 is white. " * 50)
    deltas(counting, ids, [1])  # type: ignore[arg-type]
    assert counting.decoded == len(ids)

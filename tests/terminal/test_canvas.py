"""The drawing, as plain data: which text, at which place, in which style."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from gesso.generation.events import Result, Statistics
from gesso.processor import Processor, ToolCall
from gesso.terminal.canvas import Painter, fold
from gesso.terminal.picture import Picture

LIMIT = 12


@pytest.fixture
def painter(processor: Processor) -> Painter:
    tokenizer = processor.tokenizer
    ends = frozenset({tokenizer.id("<eos>"), tokenizer.id("<pad>")})
    return Painter(tokenizer=tokenizer, ends=ends, limit=LIMIT)


def picture(tokens: Sequence[int], entropy: float = 0.0, **facts: object) -> Picture:
    made = Picture(tokens=tuple(tokens), entropy=(entropy,) * len(tokens), forwards=1)
    return replace(made, **facts)  # type: ignore[arg-type]


def styles(text: Text) -> set[str]:
    return {str(span.style) for span in text.spans}


def test_tokens_stand_in_their_order(painter: Painter) -> None:
    ids = painter.tokenizer.encode('{"kind":"order"} für Café 東')
    assert painter.text(picture(ids)).plain == painter.tokenizer.decode(ids)


def test_bytes_are_shown_as_the_characters_that_they_spell(painter: Painter) -> None:
    ids = painter.tokenizer.encode("東")
    assert len(ids) == 3
    assert painter.text(picture(ids)).plain == "東"


def test_the_surer_the_brighter(painter: Painter) -> None:
    ids = painter.tokenizer.encode("order")
    ranks = [styles(painter.text(picture(ids, entropy))) for entropy in (0.0, 0.5, 1.5, 6.0)]
    assert ranks == [set(), {"dim"}, {"#808080"}, {"#808080 dim"}]


def test_what_changed_is_marked(painter: Painter) -> None:
    old, new = painter.tokenizer.id("order"), painter.tokenizer.id("kind")
    text = painter.text(picture([old, new], before=(old, old)))
    marked = [text.plain[span.start : span.end] for span in text.spans]
    assert marked == ["kind"]


def test_ends_are_quiet_dots(painter: Painter) -> None:
    eos, pad = painter.tokenizer.id("<eos>"), painter.tokenizer.id("<pad>")
    text = painter.text(picture([painter.tokenizer.id("order"), eos, pad]))
    assert text.plain == "order··"
    assert styles(text) == {"#808080 dim"}


def test_other_special_tokens_are_spelt(painter: Painter) -> None:
    assert painter.text(picture([painter.tokenizer.id("<|tool_call>")])).plain == "<|tool_call>"


@pytest.mark.parametrize(("entropy", "shown"), [(0.0, "order↵\norder"), (3.0, "order↵order")])
def test_a_line_breaks_once_the_model_is_sure(painter: Painter, entropy: float, shown: str) -> None:
    assert painter.text(picture(painter.tokenizer.encode("order\norder"), entropy)).plain == shown


def test_committed_canvases_are_plain_text_above(painter: Painter) -> None:
    ids = painter.tokenizer.encode("order")
    done = (*painter.tokenizer.encode('{"kind":'), painter.tokenizer.id("<eos>"))
    text = painter.text(picture(ids, 6.0, committed=done))
    assert text.plain == '{"kind":order'
    assert all(text.plain[span.start : span.end] == "order" for span in text.spans)


def test_a_model_cannot_steer_the_terminal(painter: Painter, processor: Processor) -> None:
    ids = processor.tokenizer.encode("\x1b[2Jorder\r")
    screen = StringIO()
    Console(file=screen, force_terminal=True, color_system=None).print(
        painter.frame(picture(ids, committed=tuple(ids)), width=80, height=24)
    )
    assert "order" in screen.getvalue()
    assert not {"\x1b", "\r"} & set(screen.getvalue())


@pytest.mark.parametrize("width", [7, 10, 33])
@pytest.mark.parametrize("height", [4, 9])
def test_a_frame_fits_the_terminal_and_ends_with_its_status(
    painter: Painter, width: int, height: int
) -> None:
    ids = painter.tokenizer.encode("12 boxes of nails to 東京 \n" * 12)
    lines = painter.frame(picture(ids), width=width, height=height).plain.split("\n")
    assert len(lines) == height - 1
    assert max(map(cell_len, lines)) <= width
    assert lines[-1].startswith("canvas"[: width - 1])


def test_of_a_long_text_the_end_is_shown(painter: Painter) -> None:
    ids = painter.tokenizer.encode("\n".join(str(i) for i in range(50)))
    assert painter.frame(picture(ids), width=20, height=5).plain.split("\n")[:-1] == [
        "47↵",
        "48↵",
        "49",
    ]


def test_the_status_line_does_not_jump_up(painter: Painter) -> None:
    ids = painter.tokenizer.encode("order")
    assert painter.frame(picture(ids), width=20, height=24).plain.count("\n") == 1
    lines = painter.frame(picture(ids), width=80, height=24, floor=5).plain.split("\n")
    assert lines[:4] == ["order", "", "", ""]
    assert lines[4].startswith("canvas 1")


def test_folding_keeps_every_character_and_style() -> None:
    text = Text("abcdef\n\n東京東京").append("xyz", "dim")
    lines = fold(text, 4)
    assert [line.plain for line in lines] == ["abcd", "ef", "", "東京", "東京", "xyz"]
    assert styles(lines[-1]) == {"dim"}


def test_status(painter: Painter) -> None:
    assert painter.status(Picture()).plain == "reading the prompt · 0.0 s"
    second = picture((5,), committed=(1, 2, 3, 4), canvas=1, step=1, forwards=4, seconds=1.26)
    assert painter.status(second).plain == (
        "canvas 2 · step 2 of at most 12 · 2.0 tokens/forward · 1.3 s"
    )
    causal = replace(painter, limit=None)
    assert causal.status(Picture(committed=(1, 2), forwards=2)).plain == "2 tokens · 0.0 s"


def result(steps: tuple[int, ...], capped: bool = False, **fields: object) -> Result:
    stats = Statistics(
        prompt_tokens=3,
        new_tokens=30,
        steps=steps,
        forwards=sum(steps),
        seconds=0.5,
        hit_step_cap=(False,) * (len(steps) - 1) + (capped,),
        first_draft_seconds=0.1,
        first_commit_seconds=0.2,
    )
    made = Result(
        text="Yes.", reasoning="", tool_calls=(), token_ids=(), finish_reason="stop", stats=stats
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("steps", "said"),
    [((1,), "1 step"), ((4, 6), "4 + 6 steps"), ((2,) * 9 + (4,), "2.2 steps a canvas")],
)
def test_summary(painter: Painter, steps: tuple[int, ...], said: str) -> None:
    rate = 30 / sum(steps)
    assert painter.summary(result(steps)).plain == (
        f"30 tokens · {said} · {rate:.1f} tokens/forward · 60 tokens/s · 0.50 s · stop"
    )


def test_summary_says_when_the_cap_was_hit(painter: Painter) -> None:
    assert painter.summary(result((12,), capped=True)).plain.endswith("hit the step cap")


def test_summary_of_nothing(painter: Painter) -> None:
    none = replace(result((), finish_reason="cancelled").stats, new_tokens=0, hit_step_cap=())
    assert painter.summary(result((), finish_reason="cancelled", stats=none)).plain == (
        "0.50 s · cancelled"
    )


def test_an_answer_keeps_reasoning_text_and_calls(painter: Painter) -> None:
    whole = result(
        (1,), reasoning="Hm.", text="Yes.\x1b[2J\n", tool_calls=(ToolCall("add", {"a": 1}),)
    )
    lines = painter.answer(whole).plain.split("\n")
    assert lines[:3] == ["Hm.", "Yes.\ufffd[2J", "→ add {'a': 1}"]
    assert painter.answer(result((1,), text="")).plain.startswith("30 tokens")

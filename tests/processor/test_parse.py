import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.processor import Reply, ToolCall, parse_reply
from gesso.processor.parse import without_reasoning

SPECIALS = ["<turn|>", "<|turn>", "<eos>", "<pad>", "<|tool_response>"]
CALL = '<|tool_call>call:get_weather{city:<|"|>Graz<|"|>,days:3}<tool_call|>'
WEATHER_CALL = ToolCall("get_weather", {"city": "Graz", "days": 3})


def parse(text: str) -> Reply:
    return parse_reply(text, specials=SPECIALS)


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("", Reply("", "", ())),
        ("Blue.<turn|>", Reply("Blue.", "", ())),
        ("<|channel>thought\nHm.\n<channel|>Blue.<turn|>", Reply("Blue.", "Hm.", ())),
        ("<|channel>thought\n<channel|>Blue.", Reply("Blue.", "", ())),
        ("<|channel>thought\nHm, and th", Reply("", "Hm, and th", ())),
        ("<|channel>thou", Reply("", "", ())),
        ("<|channel>", Reply("", "", ())),
        (
            "a<|channel>thought\nb<channel|>c<|channel>thought\nd<channel|>e",
            Reply("ace", "b\nd", ()),
        ),
        ("a<channel|>b", Reply("ab", "", ())),
        (CALL + "<|tool_response>", Reply("", "", (WEATHER_CALL,))),
        ("Let me see." + CALL + CALL + "Done.", Reply("Let me see.Done.", "", (WEATHER_CALL,) * 2)),
        ("<|channel>thought\nAsk.<channel|>" + CALL, Reply("", "Ask.", (WEATHER_CALL,))),
        (CALL.removesuffix("<tool_call|>"), Reply("", "", (WEATHER_CALL,))),
    ],
)
def test_replies(text: str, reply: Reply) -> None:
    assert parse(text) == reply


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("{}", {}),
        ("{a:true,b:false,c:null}", {"a": True, "b": False, "c": None}),
        ("{a:-1,b:2.5,c:1e-07,d:[],e:{}}", {"a": -1, "b": 2.5, "c": 1e-07, "d": [], "e": {}}),
        ("{a:[1,[2,{b:3}]]}", {"a": [1, [2, {"b": 3}]]}),
        ('{ a : <|"|> x <|"|> , b : [ 1 , 2 ] }', {"a": " x ", "b": [1, 2]}),
        ('{a:<|"|>},{<tool_call|>\n"<|"|>}', {"a": '},{<tool_call|>\n"'}),
        ('{<|"|>odd:key<|"|>:1,two words:2}', {"odd:key": 1, "two words": 2}),
        ("{trueish:1,a:2,a:3}", {"trueish": 1, "a": 3}),
    ],
)
def test_arguments(written: str, arguments: dict[str, object]) -> None:
    reply = parse(f"<|tool_call>call:f{written}<tool_call|>")
    assert reply == Reply("", "", (ToolCall("f", arguments),))


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "call:",
        "call:{}",
        "f{}",
        "call:f",
        "call:f{a:1",
        "call:f{a:1}}",
        "call:f{a}",
        "call:f{a:}",
        "call:f{,a:1}",
        "call:f{a:1,}",
        "call:f{a:bare}",
        "call:f{a:truely}",
        "call:f{a:1 b:2}",
        "call:f{a:[1,}",
        "call:f{a:1e999}",
        "call:f{a:" + "9" * 5000 + "}",
        "call:f{a:" + "[" * 5000 + "}",
        "call:f{a:" + "{a:" * 5000 + "}",
    ],
)
def test_a_malformed_call_stays_in_the_text(inner: str) -> None:
    reply = parse(f"See: <|tool_call>{inner}<tool_call|> so.")
    assert reply == Reply(f"See: {inner} so.", "", ())


def test_a_malformed_call_does_not_hide_the_next() -> None:
    assert parse("<|tool_call>call:f{a:" + CALL) == Reply("call:f{a:", "", (WEATHER_CALL,))


MARKS = ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>', "<turn|>"]
WORDS = ["thought\n", "call:f", "a", "1", "true", "-", " ", "\n", "<", *"{}[]:,"]
GRAMMAR = st.sampled_from([*MARKS, *WORDS])


@given(st.lists(GRAMMAR | st.text(max_size=3), max_size=30).map("".join))
def test_parsing_is_total_and_leaves_no_marks(text: str) -> None:
    reply = parse(text)
    assert sum(map(len, (reply.text, reply.reasoning))) <= len(text)
    for call in reply.tool_calls:
        assert call.name


@given(st.lists(GRAMMAR, max_size=30).map("".join), st.text(alphabet="ab \n", max_size=5))
def test_text_without_marks_is_returned_as_it_is(text: str, more: str) -> None:
    plain = text.replace("<", "(") + more
    assert parse(plain) == Reply(plain, "", ())


def test_numbers_keep_their_kind() -> None:
    value = parse("<|tool_call>call:f{a:2.0,b:2}<tool_call|>").tool_calls[0].arguments
    assert (type(value["a"]), type(value["b"])) == (float, int)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("a", "a"),
        ("<|channel>thought\nx<channel|>a", "a"),
        ("a<|channel>x", "a"),
        ("a<channel|>b", "ab"),
        ("a<|channel>x<|channel>y<channel|>b<channel|>c", "abc"),
    ],
)
def test_without_reasoning(text: str, spoken: str) -> None:
    assert without_reasoning(text) == spoken

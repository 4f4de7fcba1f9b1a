"""The tiny checkpoint's own template (assets/tiny/chat_template.jinja), by what it writes."""

from typing import Any

import pytest

from gesso.processor import Processor, ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "Does it.",
        "parameters": {
            "type": "object",
            "properties": {"b": {"type": "integer"}, "a": {"type": "string", "enum": ["x"]}},
            "required": ["a"],
        },
    },
}
DECLARED = (
    '<|tool>declaration:f{description:<|"|>Does it.<|"|>,parameters:{properties:{'
    'a:{enum:[<|"|>x<|"|>],type:<|"|>STRING<|"|>},b:{type:<|"|>INTEGER<|"|>}},'
    'required:[<|"|>a<|"|>],type:<|"|>OBJECT<|"|>}}<tool|>'
)
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":"x"}'}}
CALLED = '<|tool_call>call:f{a:<|"|>x<|"|>,b:1}<tool_call|>'
ANSWERED = '<|tool_response>response:f{value:<|"|>ok<|"|>}<tool_response|>'
PROMPT = "<|turn>model\n"


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def model(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


ASK = "<|turn>user\nq<turn|>\n"
RESULT = {"role": "tool", "tool_call_id": "1", "content": "ok"}


@pytest.mark.parametrize(
    ("messages", "options", "written"),
    [
        ([user(" q ")], {}, ASK + PROMPT),
        ([user("q")], {"add_generation_prompt": False}, ASK),
        ([user("q")], {"thinking": True}, "<|turn>system\n<|think|>\n<turn|>\n" + ASK + PROMPT),
        (
            [{"role": "developer", "content": " s\n"}, user("q")],
            {"thinking": True, "tools": [TOOL]},
            f"<|turn>system\n<|think|>\ns{DECLARED}<turn|>\n" + ASK + PROMPT,
        ),
        ([user("q")], {"tools": [TOOL]}, f"<|turn>system\n{DECLARED}<turn|>\n" + ASK + PROMPT),
        (
            [user("q"), model(" a "), user("q"), model("b"), user("q")],
            {},
            f"{ASK}{PROMPT}a<turn|>\n{ASK}{PROMPT}b<turn|>\n{ASK}{PROMPT}",
        ),
        ([user("q"), model("a"), model("b")], {}, f"{ASK}{PROMPT}ab<turn|>\n{PROMPT}"),
        (
            [user("q"), model("<|channel>thought\nhm<channel|>a")],
            {"add_generation_prompt": False},
            f"{ASK}{PROMPT}a<turn|>\n",
        ),
        (  # the model stops a call with the token that opens the response
            [user("q"), model(None, tool_calls=[CALL])],
            {},
            f"{ASK}{PROMPT}{CALLED}<|tool_response>",
        ),
        (
            [user("q"), model("see", tool_calls=[CALL]), RESULT],
            {},
            f"{ASK}{PROMPT}see{CALLED}{ANSWERED}",
        ),
        (
            [user("q"), model(None, tool_calls=[CALL]), RESULT, model("a"), user("q")],
            {},
            f"{ASK}{PROMPT}{CALLED}{ANSWERED}a<turn|>\n{ASK}{PROMPT}",
        ),
        (
            [user("q"), model(None, tool_calls=[CALL]), user("q")],
            {},
            f"{ASK}{PROMPT}{CALLED}<turn|>\n{ASK}{PROMPT}",
        ),
        (
            [user("q"), {"role": "tool", "name": "g", "content": {"z": None, "y": [True]}}],
            {},
            f"{ASK}{PROMPT}<|tool_response>response:g{{y:[true],z:null}}<tool_response|>",
        ),
        (
            [user("q"), model(None, reasoning="hm", tool_calls=[CALL])],
            {},
            f"{ASK}{PROMPT}<|channel>thought\nhm\n<channel|>{CALLED}<|tool_response>",
        ),
        (  # reasoning of an answer, or before the last question, is gone
            [user("q"), model("a", reasoning="hm")],
            {"add_generation_prompt": False},
            f"{ASK}{PROMPT}a<turn|>\n",
        ),
        (
            [user("q"), model(None, reasoning="hm", tool_calls=[CALL]), RESULT, user("q")],
            {},
            f"{ASK}{PROMPT}{CALLED}{ANSWERED}<turn|>\n{ASK}{PROMPT}",
        ),
    ],
)
def test_rendering(
    processor: Processor, messages: list[dict[str, Any]], options: dict[str, Any], written: str
) -> None:
    assert processor.template is not None
    assert processor.template.render(messages, **options) == "<bos>" + written


def test_a_reply_is_fed_back_as_it_was_parsed(processor: Processor) -> None:
    assert processor.template is not None
    reply = processor.parse(processor.tokenizer.encode(f"see{CALLED}", specials=True))
    assert reply.tool_calls == (ToolCall("f", {"a": "x", "b": 1}),)
    answered = {"role": "tool", "name": "f", "content": "ok"}
    for calls in (reply.tool_calls, list(reply.tool_calls)):
        chat = [user("q"), model(reply.text, tool_calls=calls), answered]
        written = f"<bos>{ASK}{PROMPT}see{CALLED}{ANSWERED}"
        assert processor.template.render(chat) == written


def test_a_reply_continues_the_prompt_that_asked_for_it(processor: Processor) -> None:
    """Training: a conversation with its answer starts with the prompt for that answer."""
    assert processor.template is not None
    chat = [{"role": "system", "content": "s"}, user("q"), model(None, tool_calls=[CALL])]
    chat += [RESULT, model("a"), user("q"), model("b")]
    whole = processor.template.render(chat, add_generation_prompt=False)
    for i, message in enumerate(chat):
        if message["role"] == "assistant":
            assert whole.startswith(processor.template.render(chat[:i]))


def test_media_parts_are_one_placeholder_each(processor: Processor) -> None:
    """Not reachable through `render` yet, which refuses them; the template is ready."""
    assert processor.template is not None
    parts = [{"type": "image"}, {"type": "text", "text": " a"}, {"type": "video"}]
    text = processor.template._compiled.render(messages=[{"role": "user", "content": parts}])
    assert text == "<|turn>user\n<|image|> a<|video|><turn|>\n"

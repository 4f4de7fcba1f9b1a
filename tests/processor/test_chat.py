import json
from pathlib import Path
from typing import Any

import pytest

from gesso.processor import ChatTemplate, ToolCall
from gesso.processor.chat import normalise_messages, normalise_tools
from gesso.processor.shield import Shield

USER = {"role": "user", "content": "a"}


def call(arguments: Any) -> dict[str, Any]:
    return {"function": {"name": "f", "arguments": arguments}}


def reply(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", **fields}


# ------------------------------------------------------------------------------- environment


def render(source: str, **options: Any) -> str:
    return ChatTemplate(source=source, variables={"bos_token": "<bos>"}).render([USER], **options)


def test_a_template_sees_what_it_needs() -> None:
    source = "{{ bos_token }}{{ messages[0].content }}{{ enable_thinking }}{{ tools }}"
    assert render(source) == "<bos>aFalseNone"
    assert render(source, thinking=True) == "<bos>aTrueNone"
    assert render("{{ add_generation_prompt }}", add_generation_prompt=False) == "False"


def test_the_environment_is_that_of_transformers() -> None:
    assert render("{% if true %}\n  {% if true %}\nx\n{% endif %}{% endif %}") == "x\n"
    loop = "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(loop) == "1"
    assert render("{{ {'b': '<é>', 'a': 1} | tojson }}") == '{"b": "<é>", "a": 1}'
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    with pytest.raises(ValueError, match="refused the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "a{% generation %}b{% endgeneration %}c",
        "{% if messages %}\n  {%- generation -%}\n {{ 1 }} \n  {% endgeneration %}\nx\n{% endif %}",
        "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
        "{% generation %}{% for i in [1, 2] %}{{ i }}{% break %}{% endfor %}{% endgeneration %}",
    ],
)
def test_what_a_model_wrote_may_be_tagged(folder: Path, source: str) -> None:
    """As transformers renders it."""
    transformers = pytest.importorskip("transformers")
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    wanted = oracle.apply_chat_template([USER], chat_template=source, tokenize=False)
    assert ChatTemplate(source=source).render([USER]) == wanted


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ missing.field }}",
        "{{ 1 + 'a' }}",
    ],
)
def test_a_failing_template_is_a_users_error(source: str) -> None:
    with pytest.raises(ValueError, match="chat template refused the messages"):
        render(source)


def test_a_broken_template_is_named() -> None:
    with pytest.raises(ValueError, match="does not compile: line 2"):
        render("\n{% if %}")
    with pytest.raises(ValueError, match=r"does not compile: line 2: .*endgeneration"):
        render("\n{% generation %}")


# ------------------------------------------------------------------------------------- loading


def test_the_template_file_wins(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path, variables={}) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{}")
    assert ChatTemplate.load(tmp_path, variables={}) is None
    config.write_text(json.dumps({"chat_template": "from config"}))
    assert ChatTemplate.load(tmp_path, variables={}) == ChatTemplate(source="from config")
    named = [5, {}, {"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.load(tmp_path, variables={}) == ChatTemplate(source="yes")
    (tmp_path / "chat_template.jinja").write_text("from file")
    loaded = ChatTemplate.load(tmp_path, variables={"bos_token": "<s>"})
    assert loaded == ChatTemplate(source="from file", variables={"bos_token": "<s>"})


# -------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("template", [5, {"default": "x"}, [{"name": "default", "template": 5}]])
def test_a_template_that_is_no_text_is_named(tmp_path: Path, template: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(
        ValueError, match=r"tokenizer_config\.json: chat_template is .* a template's"
    ):
        ChatTemplate.load(tmp_path, variables={})
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"chat_template\.jinja: not UTF-8"):
        ChatTemplate.load(tmp_path, variables={})


def test_normalising_is_idempotent_and_leaves_the_callers_messages_alone() -> None:
    messages = [
        USER,
        reply(content=None, reasoning="hm", tool_calls=[call('{"a": [1]}'), call(""), call(None)]),
        {"role": "tool", "content": {"b": 1}},
        reply(content=[{"type": "text", "text": "<|channel>x<channel|>c"}]),
    ]
    before = json.dumps(messages)
    once = normalise_messages(messages)
    assert json.dumps(messages) == before
    assert normalise_messages(once) == once
    arguments = [item["function"]["arguments"] for item in once[1]["tool_calls"]]
    assert arguments == [{"a": [1]}, {}, {}]
    assert (once[1]["content"], once[1]["reasoning_content"]) == ("", "hm")
    assert once[3]["content"] == [{"type": "text", "text": "c"}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ("hi", "must be a list of messages, got str"),
        (USER, "must be a list of messages, got dict"),
        (["hi"], r"messages\[0\] must be an object with role and content, got str"),
        ([USER, {"role": "bot", "content": "a"}], r"messages\[1\] has the role 'bot'; use one of"),
        ([{"content": "a"}], "has the role None"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        ([{"role": "user", "content": None}], "has no content"),
        ([reply(content=None, tool_calls=[])], "has no content"),
        ([{"role": "user", "content": 5}], "content of type int"),
        ([{"role": "user", "content": {"a": 1}}], "content of type dict"),
        ([{"role": "user", "content": ["a"]}], r"content\[0\] is not a text part"),
        ([{"role": "user", "content": [{"type": "text"}]}], "is not a text part"),
        ([{"role": "user", "content": [{"type": "poem"}]}], "is not a text part"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            r"messages\[0\]\.content\[0\]: image input is not supported yet by this build",
        ),
        ([{"role": "user", "content": [{"type": "video"}]}], "video input is not supported yet"),
        ([{"role": "user", "content": "a", "tool_calls": [call({})]}], "in an assistant message"),
        ([reply(tool_calls={"a": 1})], "tool_calls must be a list"),
        ([reply(tool_calls=[{"name": "f"}])], r"tool_calls\[0\] has no named function"),
        ([reply(tool_calls=[call("{a")])], "arguments that are not JSON"),
        ([reply(tool_calls=[call("[" * 100_000)])], "arguments that are not JSON"),
        ([reply(tool_calls=[call("[1]")])], "are no JSON object"),
        ([reply(tool_calls=ToolCall("f", {}))], r"tool_calls\[0\] has no named function"),
        ([reply(tool_calls=[ToolCall("f", {"a": {1}})])], "holds something that JSON cannot"),
        ([reply(content="a", reasoning=5)], "reasoning of type int"),
        ([reply(tool_calls=[call({"a": float("nan")})])], "holds something that JSON cannot"),
        ([{"role": "user", "content": b"a"}], r"messages\[0\] holds something that JSON cannot"),
    ],
)
def test_wrong_messages(messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise_messages(messages)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("f", "tools must be a list of tools, got str"),
        ([{"name": "f"}], r"tools\[0\] must be an object with a named function"),
        ([{"function": {"name": "f", "parameters": print}}], r"tools\[0\] holds something"),
        ([{"function": {"name": "f", "parameters": "x"}}], r"tools\[0\] has parameters 'x'; expec"),
    ],
)
def test_wrong_tools(tools: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalise_tools(tools)


def test_no_tools() -> None:
    assert normalise_tools(None) is None
    assert normalise_tools([]) is None


def test_bottomless_nesting_is_a_users_error() -> None:
    nested: list[Any] = []
    for _ in range(3000):
        nested = [nested]
    message = {"role": "tool", "content": {"a": nested}}
    with pytest.raises(ValueError, match="recursion"):
        ChatTemplate(source="{{ messages }}").render([message], shield=Shield(["<|a>"]))

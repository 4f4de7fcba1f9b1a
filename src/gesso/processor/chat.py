"""Chat messages in OpenAI's shape, and the checkpoint's own template that renders them.

The template decides every character of a prompt, so it is taken from the checkpoint
(chat_template.jinja, else tokenizer_config.json) and run in the environment that its authors test
against (jinja.py).

Messages are checked and brought into one form first, so that a template sees plain JSON values
and a user sees one clear error. Images and video will enter in `_part`, the only place that knows
the types of content parts; templates already render them as one placeholder token each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.processor.parse import ToolCall, without_reasoning
from gesso.processor.shield import Shield
from gesso.values import read_json

if TYPE_CHECKING:
    import jinja2

Message = Mapping[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_MEDIA = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "audio": "audio",
    "input_audio": "audio",
}


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A Jinja chat template. `variables` (bos_token, ...) are visible to it by name."""

    source: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, *, variables: Mapping[str, str]) -> ChatTemplate | None:
        """The checkpoint's template; None when it has none."""
        source = _read_source(Path(folder))
        return None if source is None else cls(source=source, variables=dict(variables))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        add_generation_prompt: bool = True,
        shield: Shield | None = None,
    ) -> str:
        """The prompt as text. With a `shield`, everything from messages and tools is marked, and
        the text is for `Tokenizer.encode_shielded`.

        ValueError: messages or tools of the wrong shape, or refused by the template.
        """
        from jinja2 import TemplateError

        checked = normalise_messages(messages)
        declared = normalise_tools(tools)
        try:
            if shield is not None:
                checked, declared = shield.tree(checked), shield.tree(declared)
            return self._compiled.render(
                **self.variables,
                messages=checked,
                tools=declared,
                enable_thinking=thinking,
                add_generation_prompt=add_generation_prompt,
            )
        except (
            TemplateError, TypeError, AttributeError, ArithmeticError, LookupError, RecursionError
        ) as error:  # fmt: skip
            raise ValueError(
                f"the checkpoint's chat template refused the messages: {error}; "
                "check the order of roles and the contents"
            ) from error

    @cached_property
    def _compiled(self) -> jinja2.Template:
        from jinja2 import TemplateSyntaxError

        from gesso.processor.jinja import environment

        try:
            return environment().from_string(self.source)
        except TemplateSyntaxError as error:
            raise ValueError(
                f"the checkpoint's chat template does not compile: line {error.lineno}: "
                f"{error.message}; fetch chat_template.jinja again"
            ) from error


def normalise_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A checked deep copy in plain JSON values: tool-call arguments are objects, reasoning is
    under `reasoning_content`, earlier replies hold no reasoning spans. A `ToolCall`, as in a
    result, is a tool call too. ValueError: a wrong shape.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ValueError(
            f"messages must be a list of messages, got {type(messages).__name__}; "
            'write [{"role": "user", "content": "..."}]'
        )
    if not messages:
        raise ValueError("messages is empty; give at least one message")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def normalise_tools(
    tools: Sequence[Mapping[str, Any]] | None,
) -> list[dict[str, Any]] | None:
    """A checked deep copy; None when there are none. ValueError: a wrong shape."""
    if tools is None:
        return None
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise ValueError(f"tools must be a list of tools, got {type(tools).__name__}")
    copies = [_plain(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    for i, tool in enumerate(copies):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(
                f"tools[{i}] must be an object with a named function; "
                'write {"type": "function", "function": {"name": ..., "parameters": {...}}}'
            )
        if not isinstance(parameters := function.get("parameters"), dict | None):
            raise ValueError(
                f"tools[{i}] has parameters {parameters!r:.80}; expected an object, a JSON schema"
            )
    return copies or None


def _message(message: Message, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(
            f"{where} must be an object with role and content, got {type(message).__name__}"
        )
    copy: dict[str, Any] = _plain(_spelt(message), where)
    role = copy.get("role")
    if role not in _ROLES:
        raise ValueError(f"{where} has the role {role!r}; use one of {', '.join(_ROLES)}")
    calls = copy.get("tool_calls")
    if calls is not None:
        copy["tool_calls"] = _tool_calls(calls, role, where)
    if copy.get("content") is None:
        if not calls:
            raise ValueError(f"{where} has no content; give a string or a list of parts")
        copy["content"] = ""
    copy["content"] = _content(copy["content"], role, where)
    thought = next((copy[key] for key in _REASONING_KEYS if copy.get(key) is not None), None)
    if thought is not None:
        if not isinstance(thought, str):
            raise ValueError(f"{where} has reasoning of type {type(thought).__name__}; use text")
        copy["reasoning_content"] = thought
    return copy


def _spelt(message: Message) -> dict[str, Any]:
    """With tool calls of a result in OpenAI's shape."""
    fields = dict(message)
    if isinstance(calls := fields.get("tool_calls"), list | tuple):
        fields["tool_calls"] = [
            {"type": "function", "function": call._asdict()} if isinstance(call, ToolCall) else call
            for call in calls
        ]
    return fields


def _content(content: Any, role: str, where: str) -> Any:
    if role == "tool" and isinstance(content, dict):  # a result as an object
        return content
    if isinstance(content, str):
        return without_reasoning(content) if role == "assistant" else content
    if isinstance(content, list):
        return [_part(part, role, f"{where}.content[{i}]") for i, part in enumerate(content)]
    raise ValueError(
        f"{where} has content of type {type(content).__name__}; give a string or a list of parts"
    )


def _part(part: Any, role: str, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in _MEDIA:
        raise ValueError(
            f"{where}: {_MEDIA[kind]} input is not supported yet by this build; send text parts"
        )
    if kind != "text" or not isinstance(part.get("text"), str):
        raise ValueError(
            f'{where} is not a text part; write {{"type": "text", "text": "..."}}, got {part!r:.80}'
        )
    if role == "assistant":
        return {**part, "text": without_reasoning(part["text"])}
    return dict(part)


def _tool_calls(calls: Any, role: str, where: str) -> list[dict[str, Any]]:
    if role != "assistant" or not isinstance(calls, list):
        raise ValueError(f"{where}: tool_calls must be a list, in an assistant message")
    return [_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(
            f"{where} has no named function; "
            'write {"type": "function", "function": {"name": ..., "arguments": {...}}}'
        )
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{where} has arguments that are not JSON ({error}): {arguments!r:.80}; "
                "give a JSON object, as an object or as its text"
            ) from None
    if not isinstance(arguments, dict):
        raise ValueError(f"{where} has arguments that are no JSON object: {arguments!r:.80}")
    return {**call, "function": {**function, "arguments": arguments}}


def _plain(value: Any, where: str) -> Any:
    """A deep copy in JSON's own types: a template gets no object with methods to call."""
    try:
        return json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} holds something that JSON cannot express: {error}") from error


def _read_source(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error}); fetch the file again") from None
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    template = read_json(path).get("chat_template")
    if isinstance(template, list):  # several named ones
        entries = [entry if isinstance(entry, dict) else {} for entry in template]
        template = next((e.get("template") for e in entries if e.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise ValueError(
            f"{path}: chat_template is {template!r:.80}; a template's text is expected"
        )
    return template

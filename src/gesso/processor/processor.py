"""The processor: what stands between a caller's prompt and the network's token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from gesso.processor.chat import ChatTemplate, Message
from gesso.processor.parse import (
    CALL_CLOSE,
    CALL_OPEN,
    CHANNEL_CLOSE,
    CHANNEL_OPEN,
    QUOTE,
    Reply,
    ToolCall,
    parse_reply,
)
from gesso.processor.shield import unmarked
from gesso.processor.tokenizer import Tokenizer
from gesso.values import truth


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A checkpoint's tokenizer and, where it has one, its chat template."""

    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def load(cls, folder: Path) -> Processor:
        """Read both from a checkpoint folder. ValueError: no tokenizer.json."""
        tokenizer = Tokenizer.load(folder)
        return cls(
            tokenizer=tokenizer, template=ChatTemplate.load(folder, variables=tokenizer.named)
        )

    def encode_prompt(
        self,
        prompt: str | Sequence[Message],
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
    ) -> list[int]:
        """Token ids of a prompt, bos included.

        Messages, and a string unless `raw`, go through the chat template; special tokens spelt in
        them stay text. A raw string is taken as it stands: special tokens are recognised, and bos
        is put in front unless it is there. Without a template a string is bos and plain text.

        ValueError: an empty prompt, messages of the wrong shape or without a template, tools or
        thinking for a prompt that no template renders, raw or thinking other than True and False.
        """
        # A "false" from somebody's settings would count as true, and let text spell special tokens.
        raw, thinking = truth("raw", raw), truth("thinking", thinking)
        if isinstance(prompt, str):
            if not (prompt if raw else prompt.strip()):
                raise ValueError(f"the prompt is empty, got {prompt!r}; give some text")
            if raw or self.template is None:
                if tools or thinking:
                    raise ValueError(
                        "tools and thinking are written by a chat template, which "
                        + ("raw=True leaves out; drop raw" if raw else "this checkpoint lacks")
                    )
                return self._plain_prompt(prompt, specials=raw)
            prompt = [{"role": "user", "content": prompt}]
        elif raw:
            raise ValueError(
                f"raw=True takes a string, got {type(prompt).__name__}; "
                "drop raw, or render the messages yourself"
            )
        if self.template is None:
            raise ValueError(
                "messages need a chat template and this checkpoint has none; put its "
                "chat_template.jinja into the folder, or give a plain string"
            )
        text = self.template.render(
            prompt, tools=tools, thinking=thinking, shield=self.tokenizer.shield
        )
        return self.tokenizer.encode_shielded(text)

    @property
    def end_of_turn_id(self) -> int:
        """The token that closes an answer: the end of a turn; eos where there is no template."""
        return self.tokenizer.id("<eos>" if self.template is None else "<turn|>")

    def parse(self, ids: Sequence[int]) -> Reply:
        """Answer, reasoning and tool calls of generated ids; never raises on what a model wrote.

        Only control tokens structure a reply. A reply that spells one with ordinary tokens, by
        repeating what a user typed for instance, calls no tool: it is shielded while parsed.
        """
        tokenizer = self.tokenizer
        pieces: list[str] = []
        for special, run in groupby(ids, key=tokenizer.special_ids.__contains__):
            text = tokenizer.decode(list(run), skip_special=False)
            pieces.append(text if special else tokenizer.shield.text(text))
        reply = parse_reply("".join(pieces), specials=tokenizer.specials)
        return Reply(
            unmarked(reply.text),
            unmarked(reply.reasoning),
            tuple(ToolCall(unmarked(c.name), unmarked(c.arguments)) for c in reply.tool_calls),
        )

    def settled(self, ids: Sequence[int]) -> int:
        """How many of the leading ids read the same whatever follows.

        Not settled: a character's first bytes, and reasoning or a tool call still open.
        """
        settled = len(ids)
        while settled and ids[settled - 1] in self.tokenizer.byte_ids:
            settled -= 1
        specials = self.tokenizer.specials
        for place in range(settled - 1, -1, -1):
            if ids[place] == specials.get(CHANNEL_CLOSE):
                break
            if ids[place] == specials.get(CHANNEL_OPEN):
                settled = place
                break
        # A call's closing mark inside a quoted string closes nothing, and a quote that ends later
        # makes it a call after all. Which quotes open one depends on where a call starts, so the
        # first open call is kept for either parity of the quotes before it.
        open_calls: dict[bool, int] = {}
        parity = False
        for place, token_id in enumerate(ids[:settled]):
            if token_id == specials.get(QUOTE):
                parity = not parity
            elif token_id == specials.get(CALL_OPEN):
                open_calls.setdefault(parity, place)
            elif token_id == specials.get(CALL_CLOSE):
                open_calls.pop(parity, None)
        return min(open_calls.values(), default=settled)

    def _plain_prompt(self, text: str, *, specials: bool) -> list[int]:
        ids = self.tokenizer.encode(text, specials=specials)
        bos = self.tokenizer.named.get("bos_token")
        if bos is None:
            return ids
        bos_id = self.tokenizer.id(bos)
        return ids if ids[:1] == [bos_id] else [bos_id, *ids]

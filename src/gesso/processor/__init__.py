"""Text in, token ids out, and back: tokenizer, chat template, replies."""

from gesso.processor.chat import ChatTemplate
from gesso.processor.parse import Reply, ToolCall, parse_reply
from gesso.processor.processor import Processor
from gesso.processor.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Processor",
    "Reply",
    "Tokenizer",
    "ToolCall",
    "parse_reply",
]

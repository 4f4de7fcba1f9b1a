"""Text in, token ids out, and back: tokenizer, chat template, streaming, replies."""

from gesso.processor.chat import ChatTemplate
from gesso.processor.parse import Reply, ToolCall, parse_reply
from gesso.processor.processor import Processor
from gesso.processor.stream import StreamDecoder
from gesso.processor.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Processor",
    "Reply",
    "StreamDecoder",
    "Tokenizer",
    "ToolCall",
    "parse_reply",
]

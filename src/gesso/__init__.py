"""gesso: runtime and fine-tuning toolkit for DiffusionGemma.

    import gesso
    print(gesso.load("tiny").generate("Extract: ...").text)

Names are imported when they are first used: `import gesso` itself takes no time.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gesso.engine import Engine
    from gesso.engine.answers import load
    from gesso.generation.events import Commit, Draft, End, Result
    from gesso.generation.model import DiffusionGemma
    from gesso.generation.request import Parameters
    from gesso.processor import ToolCall

__version__ = version("gesso")

_HOMES = {
    "load": "gesso.engine.answers",
    "DiffusionGemma": "gesso.generation.model",
    "Engine": "gesso.engine",
    "Draft": "gesso.generation.events",
    "Commit": "gesso.generation.events",
    "End": "gesso.generation.events",
    "Result": "gesso.generation.events",
    "Parameters": "gesso.generation.request",
    "ToolCall": "gesso.processor",
}

__all__ = [
    "Commit",
    "DiffusionGemma",
    "Draft",
    "End",
    "Engine",
    "Parameters",
    "Result",
    "ToolCall",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gesso' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

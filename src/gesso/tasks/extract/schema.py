"""The four kinds and the keys of each, in their order."""

import json
from collections.abc import Mapping
from typing import Any

KEYS: Mapping[str, tuple[str, ...]] = {
    "order": ("customer", "items", "deliver_to", "date"),
    "appointment": ("person", "with", "date", "time", "place"),
    "contact": ("name", "company", "phone", "email"),
    "incident": ("what", "place", "date", "time", "reporter"),
}


def serialise(obj: Mapping[str, Any]) -> str:
    """The one spelling of an answer."""
    return json.dumps(obj, separators=(",", ":"), ensure_ascii=False)

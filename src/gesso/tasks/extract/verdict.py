"""Judging an answer: the wanted object, key order aside, with JSON's types taken seriously."""

from __future__ import annotations

import json

from gesso.tasks.same import same


def judge(wanted: str, text: str) -> dict[str, bool]:
    """exact: the wanted object; parses: some JSON object; kind: of the right kind."""
    try:
        got = json.loads(text)
    except (ValueError, RecursionError):
        got = None
    if not isinstance(got, dict):
        return {"exact": False, "parses": False, "kind": False}
    target = json.loads(wanted)
    kind = same(got.get("kind"), target["kind"])
    return {"exact": same(got, target), "parses": True, "kind": kind}

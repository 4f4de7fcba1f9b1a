"""Judging an answer: the wanted object, key order aside, with JSON's types taken seriously."""

from __future__ import annotations

import json
from typing import Any


def same(one: Any, two: Any) -> bool:
    """Equality of JSON values in which 1, 1.0 and true are three different things."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


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

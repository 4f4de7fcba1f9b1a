"""Equality of JSON values, type for type."""

from __future__ import annotations

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

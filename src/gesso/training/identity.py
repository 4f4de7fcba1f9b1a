"""What makes a run the run that it is, so that no other one goes on from its state.

Where its files lie, and how the work is cut up, may differ from machine to machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gesso.config import ModelConfig
from gesso.training.config import TrainConfig

_OPTIONS = ("seed", "batch_size", "candidates", "objective", "optimizer", "lora", "quantize")
# Of these only a fingerprint is known.
_DATA, _BASE = "data", "base weights"


def identity(
    config: TrainConfig, shape: ModelConfig, *, data: list[Any], base: str | None
) -> dict[str, Any]:
    """By name, as JSON gives it back. data and base: fingerprints of what they hold."""
    values = {name: getattr(config, name) for name in _OPTIONS}
    model = shape.to_json()
    del model["dtype"]  # of the files, not of the network
    values |= {"tasks": dict(config.tasks), "model": model, _DATA: data, _BASE: base}
    found: dict[str, Any] = json.loads(json.dumps(values, default=asdict))
    return found


def check_same(now: Mapping[str, Any], begun: Mapping[str, Any], folder: Path) -> None:
    """ValueError when the run that was begun in the folder is another one. What an
    older version did not note is not compared."""
    for name, value in now.items():
        if name not in begun or begun[name] == value:
            continue
        if name in (_DATA, _BASE):
            raise ValueError(
                f"{name}: not what {folder} was begun with; "
                "give the same again, or choose another folder"
            )
        got, wanted = _differing(value, begun[name]), _differing(begun[name], value)
        raise ValueError(
            f"{name}: got {got}, but {folder} was begun with {wanted}; "
            "resume with that, or choose another folder"
        )


def _differing(value: Any, other: Any) -> Any:
    """Of an object what the other has not, or has otherwise; anything else as it is."""
    if not (isinstance(value, dict) and isinstance(other, dict)):
        return value
    return {
        name: _differing(part, other.get(name))
        for name, part in value.items()
        if name not in other or other[name] != part
    }

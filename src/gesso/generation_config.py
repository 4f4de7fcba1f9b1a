"""What generation does by default, read here alone.

From generation_config.json, and from gesso.json what no other loop knows: transformers refuses a
generation_config.json with keys that are new to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from gesso.config import ModelConfig
from gesso.values import number, only, section, token_ids, truth, value_or, whole

# What generation_config.json calls the settings of `GenerationConfig`, by what they may be called;
# it ends a line that begins with "write".
_SETTINGS = {
    key: key
    for key in (
        "max_new_tokens",
        "max_denoising_steps",
        "sampler_config",
        "t_min",
        "t_max",
        "stability_threshold",
        "confidence_threshold",
        "eos_token_id",
        "pad_token_id",
    )
} | {
    "temperature_start": "t_max",
    "temperature_end": "t_min",
    "entropy_bound": "sampler_config.entropy_bound",
    "verify": "it into gesso.json",
}
# Keys of other generation loops that are spelt much like these.
_NO_SLIPS = ("bos_token_id", "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id")
# Of one canvas. Every step has its temperature, and is remembered where stability asks for it.
MOST_STEPS = 4096


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """What generation does when the caller does not say (generation_config.json, model-spec §6).

    `entropy_bound` and `confidence_threshold` in nats; temperatures divide the logits.
    `confidence_threshold` or `stability_threshold` None switches the adaptive stop off. `verify`
    (generation/verify.py) is gesso's own.
    """

    max_new_tokens: int = 256
    max_denoising_steps: int = 48
    entropy_bound: float = 0.1
    temperature_start: float = 0.8
    temperature_end: float = 0.4
    stability_threshold: int | None = 1
    confidence_threshold: float | None = 0.005
    verify: bool = False
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        whole("max_new_tokens", self.max_new_tokens, low=1)
        whole("max_denoising_steps", self.max_denoising_steps, low=1, high=MOST_STEPS)
        number("entropy_bound", self.entropy_bound)
        number("temperature_start (t_max)", self.temperature_start)
        # No step is taken at the end's temperature (trap 18): it may be 0.
        number("temperature_end (t_min)", self.temperature_end, zero=True)
        if self.stability_threshold is not None:
            whole("stability_threshold", self.stability_threshold, low=0)
        if self.confidence_threshold is not None:
            number("confidence_threshold", self.confidence_threshold, zero=True)
        truth("verify", self.verify)
        whole("pad_token_id", self.pad_token_id, low=0)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, model: ModelConfig) -> GenerationConfig:
        """From generation_config.json; what it leaves out or null takes the library's default.
        Keys for other loops are read past, those that seem to be a slip of the pen refused."""
        _refuse_slips(raw)
        sampler: Mapping[str, Any] = {}
        if raw.get("sampler_config") is not None:
            sampler = section(raw, "sampler_config", "")
            only(sampler, "sampler_config", _cls_name=("EntropyBoundSamplerConfig", None))
            if other := sorted(sampler.keys() - {"_cls_name", "entropy_bound"}):
                raise ValueError(
                    f"sampler_config.{other[0]}: got {sampler[other[0]]!r:.80}; the sampler has "
                    "entropy_bound alone"
                )
        found = {
            "max_new_tokens": raw.get("max_new_tokens"),
            "max_denoising_steps": raw.get("max_denoising_steps"),
            "entropy_bound": sampler.get("entropy_bound"),
            "temperature_start": raw.get("t_max"),
            "temperature_end": raw.get("t_min"),
            "stability_threshold": raw.get("stability_threshold"),
            "confidence_threshold": raw.get("confidence_threshold"),
            "pad_token_id": value_or(raw, "pad_token_id", model.text.pad_token_id),
        }
        given: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        eos = value_or(raw, "eos_token_id", model.eos_token_ids)
        return cls(**given, eos_token_ids=token_ids("eos_token_id", eos))

    def to_json(self) -> dict[str, Any]:
        """The object of generation_config.json. An adaptive stop that is switched off is written
        as a threshold of 0, which no mean entropy is below: null would mean the default."""
        adaptive = None not in (self.stability_threshold, self.confidence_threshold)
        return dict(
            max_new_tokens=self.max_new_tokens,
            max_denoising_steps=self.max_denoising_steps,
            sampler_config=dict(
                _cls_name="EntropyBoundSamplerConfig", entropy_bound=self.entropy_bound
            ),
            t_min=self.temperature_end,
            t_max=self.temperature_start,
            stability_threshold=self.stability_threshold,
            confidence_threshold=self.confidence_threshold if adaptive else 0.0,
            eos_token_id=list(self.eos_token_ids),
            pad_token_id=self.pad_token_id,
        )

    def with_own(self, raw: Mapping[str, Any]) -> GenerationConfig:
        """With gesso.json over it. ValueError for what that must not say."""
        if other := sorted(raw.keys() - self.own_json().keys()):
            known = ", ".join(self.own_json())
            raise ValueError(f"{other[0]}: there is no such key; known is {known}")
        return replace(self, **raw)

    def own_json(self) -> dict[str, Any]:
        """The object of gesso.json."""
        return dict(verify=self.verify)


def _refuse_slips(raw: Mapping[str, Any]) -> None:
    """Of the many keys that other generation loops have, those that look like one of ours."""
    for key, value in raw.items():
        if value is None or key in _NO_SLIPS or key in _SETTINGS.values():
            continue
        for like in get_close_matches(key, _SETTINGS, n=1, cutoff=0.85):
            raise ValueError(
                f"{key}: got {value!r:.80}, and there is no such key; write {_SETTINGS[like]}, or "
                "remove it"
            )

"""What is asked for: prompt tokens and parameters, checked before any work starts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

from gesso.config import ModelConfig
from gesso.diffusion.loop import Policy
from gesso.diffusion.rng import SEED_LIMIT
from gesso.diffusion.sampler import EntropyBound
from gesso.diffusion.schedule import LinearTemperature
from gesso.diffusion.stopping import NeverEarly, StableAndConfident, Stopping
from gesso.generation_config import MOST_STEPS, GenerationConfig
from gesso.values import number, truth, whole


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How to generate. None takes the checkpoint's own default (generation_config.json).

    max_new_tokens: honoured exactly. canvas_length: tokens refined together, at most the
    checkpoint's: fewer make a short answer cheaper, a longer one takes more canvases. seed: below
    2**64; the same request and seed give the same answer, whoever shares the batch. entropy_bound
    and confidence in nats. stability: earlier canvases that must equal the last one. adaptive_stop
    False: every canvas takes all its steps. verify True: what is committed is what the causal pass
    writes, token for token the greedy answer of the mode "autoregressive", and a finished canvas is
    its draft. time_budget in seconds: when it is over, the canvas in work is finished as it stands,
    and a request that an engine has had no room for ends without an answer.
    stop: strings that end the answer and are left out of it.
    """

    max_new_tokens: int | None = None
    canvas_length: int | None = None
    seed: int = 0
    max_denoising_steps: int | None = None
    entropy_bound: float | None = None
    temperature_start: float | None = None
    temperature_end: float | None = None
    stability: int | None = None
    confidence: float | None = None
    adaptive_stop: bool = True
    verify: bool | None = None
    time_budget: float | None = None
    stop: Sequence[str] = ()
    ignore_stop_tokens: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, SEED_LIMIT - 1),
            ("max_new_tokens", 1, None),
            ("canvas_length", 1, None),
            ("max_denoising_steps", 1, MOST_STEPS),
            ("stability", 0, None),
        ):
            if name == "seed" or getattr(self, name) is not None:
                object.__setattr__(self, name, whole(name, getattr(self, name), low=low, high=high))
        for name in (
            "entropy_bound",
            "temperature_start",
            "temperature_end",
            "confidence",
            "time_budget",
        ):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), zero=name in ("temperature_end", "confidence"))
        for name in ("adaptive_stop", "verify", "ignore_stop_tokens"):
            if name != "verify" or self.verify is not None:
                truth(name, getattr(self, name))
        object.__setattr__(self, "stop", _strings("stop", self.stop))

    def over(self, defaults: GenerationConfig) -> GenerationConfig:
        """The checkpoint's defaults with what was given here put over them."""
        given = {
            "max_new_tokens": self.max_new_tokens,
            "max_denoising_steps": self.max_denoising_steps,
            "entropy_bound": self.entropy_bound,
            "temperature_start": self.temperature_start,
            "temperature_end": self.temperature_end,
            "stability_threshold": self.stability,
            "confidence_threshold": self.confidence,
            "verify": self.verify,
        }
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        return replace(defaults, **changes)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt, ready to run: token ids, parameters resolved against the checkpoint's."""

    prompt_ids: tuple[int, ...]
    canvas_length: int
    config: GenerationConfig
    parameters: Parameters
    cancelled: threading.Event | None = None

    @property
    def policy(self) -> Policy:
        """The refinement of one canvas that the parameters ask for."""
        config = self.config
        stop: Stopping = NeverEarly()
        if (
            self.parameters.adaptive_stop
            and config.stability_threshold is not None
            and config.confidence_threshold is not None
            # A canvas has no more drafts than steps; what could never be is not waited for.
            and config.stability_threshold < config.max_denoising_steps
        ):
            stop = StableAndConfident(
                stability=config.stability_threshold, confidence=config.confidence_threshold
            )
        return Policy(
            steps=config.max_denoising_steps,
            temperature=LinearTemperature(
                start=config.temperature_start, end=config.temperature_end
            ),
            accept=EntropyBound(bound=config.entropy_bound),
            stop=stop,
        )

    @property
    def stop_ids(self) -> frozenset[int]:
        return (
            frozenset()
            if self.parameters.ignore_stop_tokens
            else frozenset(self.config.eos_token_ids)
        )


def make_request(
    prompt_ids: Sequence[int],
    parameters: Parameters,
    *,
    model: ModelConfig,
    defaults: GenerationConfig,
    cancelled: threading.Event | None = None,
) -> Request:
    """ValueError when the prompt, or the prompt and its answer, do not fit the context.

    A length that the caller did not ask for is cut to what fits.
    """
    context = model.text.max_position_embeddings
    try:
        prompt_ids = [index(i) for i in prompt_ids]
    except TypeError:
        raise ValueError(
            f"the prompt: got {prompt_ids!r:.80}; a list of token ids is expected"
        ) from None
    if cancelled is not None and (
        isinstance(cancelled, type) or not callable(getattr(cancelled, "is_set", None))
    ):
        raise ValueError(f"cancelled: got {cancelled!r:.80}; a threading.Event is expected")
    if not prompt_ids:
        raise ValueError("the prompt is empty: no tokens; give at least one")
    unknown = [i for i in prompt_ids if not 0 <= i < model.text.vocab_size]
    if unknown:
        raise ValueError(
            f"the prompt holds token id {unknown[0]}, outside the vocabulary of "
            f"{model.text.vocab_size}; was it made by another tokenizer?"
        )
    length = parameters.canvas_length or model.canvas_length
    if length > model.canvas_length:
        raise ValueError(
            f"canvas_length: got {length}; the checkpoint has learned canvases of "
            f"{model.canvas_length}: give that or less"
        )
    # The canvas is always whole, also where only its beginning is wanted.
    room = (context - len(prompt_ids)) // length * length
    if room <= 0:
        raise ValueError(
            f"the prompt has {len(prompt_ids)} tokens; with one canvas of {length} "
            f"that is more than the context of {context}; shorten it"
        )
    config = parameters.over(defaults)
    if parameters.max_new_tokens is None:
        config = replace(config, max_new_tokens=min(config.max_new_tokens, room))
    elif config.max_new_tokens > room:
        raise ValueError(
            f"max_new_tokens: got {config.max_new_tokens}; after a prompt of {len(prompt_ids)} "
            f"tokens the context of {context} has room for {room}"
        )
    return Request(
        prompt_ids=tuple(prompt_ids),
        canvas_length=length,
        config=config,
        parameters=parameters,
        cancelled=cancelled,
    )


def _strings(name: str, value: object) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(s, str) and s for s in listed):
        raise ValueError(
            f"{name}: got {value!r}; expected a string that is not empty, or a list of such strings"
        )
    return tuple(listed)

"""What `gesso.load` gives: a checkpoint ready to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from gesso.cache import parse_kv_cache_dtype
from gesso.checkpoint import (
    load_network,
    read_adapter,
    read_config,
    read_generation_config,
    resolve,
    save_checkpoint,
)
from gesso.checkpoint.read import DTYPES, chosen_dtype
from gesso.checkpoint.schemes import read_quantization
from gesso.environment import pick_device
from gesso.generation.autoregressive import generate_autoregressive
from gesso.generation.events import CanvasEvent, End, Result
from gesso.generation.loop import generate_events
from gesso.generation.request import Parameters, Request, make_request
from gesso.generation_config import GenerationConfig
from gesso.kernels.cpu.library import is_available, library, products_of
from gesso.model.compiled import CompiledPasses
from gesso.model.network import Network
from gesso.model.quantize import SCHEMES, is_quantized
from gesso.processor import Processor

Prompt = str | Sequence[Mapping[str, Any]]
Mode = Literal["diffusion", "autoregressive"]


class DiffusionGemma:
    """A network, its processor and its generation defaults; source: the folder they came from."""

    def __init__(
        self,
        network: Network,
        processor: Processor,
        generation: GenerationConfig,
        *,
        source: Path | None = None,
    ) -> None:
        self.network = network
        self.processor = processor
        self.generation = generation
        # What answers in place of the readable loop, with the same events.
        self.answers: Callable[[Sequence[Request]], Iterator[CanvasEvent]] | None = None
        self.source = source

    def save(self, folder: str | Path, *, max_shard_bytes: int = 5 * 1000**3) -> None:
        """Write the network as it is now, say with an adapter merged in, and with it the processor
        and the generation defaults: a checkpoint for this package and transformers.

        It keeps the network's dtype: load with dtype="bfloat16" for a file in that. ValueError, and
        the folder untouched, for weights in few bits, for NaN or infinite ones, and where the
        processor's files are not known, for no folder was loaded.
        """
        if self.source is None:
            raise ValueError("no folder was loaded, whose tokenizer is saved; use save_checkpoint")
        save_checkpoint(
            self.network,
            Path(folder),
            generation=self.generation,
            processor=self.source,
            max_shard_bytes=max_shard_bytes,
        )

    def generate(
        self,
        prompt: Prompt,
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        mode: Mode = "diffusion",
        **parameters: Any,
    ) -> Result:
        """The whole answer to one prompt; arguments as in `stream`."""
        return _result(
            self.stream(prompt, raw=raw, tools=tools, thinking=thinking, mode=mode, **parameters)
        )

    def stream(
        self,
        prompt: Prompt,
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        mode: Mode = "diffusion",
        cancelled: threading.Event | None = None,
        **parameters: Any,
    ) -> Iterator[CanvasEvent]:
        """Events while the answer comes about: drafts, commits, and one End with the result.

        prompt: chat messages in OpenAI's shape, where a result's tool_calls may stand too, or a
        string: one user turn when the checkpoint has a chat template, or as it stands with
        raw=True. tools, thinking: for the template.
        mode "autoregressive" runs the causal pass token by token. cancelled: set it from another
        thread to end early. parameters: see `Parameters`. ValueError before any work starts.
        """
        if mode not in ("diffusion", "autoregressive"):
            raise ValueError(f"mode: got {mode!r}; expected 'diffusion' or 'autoregressive'")
        request = self.request(
            prompt, parameters, raw=raw, tools=tools, thinking=thinking, cancelled=cancelled
        )
        if mode == "autoregressive":
            if parameters.get("verify"):
                raise ValueError(
                    "verify: got True with the mode 'autoregressive', which has no canvas to "
                    "verify; leave one of the two out, the answer is the same"
                )
            return generate_autoregressive(self.network, self.processor, request)
        return self._events([request])

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int] | None = None,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        **parameters: Any,
    ) -> list[Result]:
        """Answers to several prompts, each as it would be alone with its seed.

        seeds: one a prompt; by default all take the parameter `seed`.
        """
        listed = isinstance(prompts, Iterable) and not isinstance(prompts, str | Mapping)
        if not listed or not (prompts := list(prompts)):
            raise ValueError(f"prompts: got {prompts!r}; give a list of at least one prompt")
        seed = parameters.pop("seed", None)
        if seeds is None:
            seeds = [0 if seed is None else seed] * len(prompts)
        elif seed is not None:
            raise ValueError("seed and seeds were both given; give seeds alone")
        else:
            try:
                seeds = [seeds] if isinstance(seeds, str) else list(seeds)
            except TypeError:  # also of an array or a tensor that holds one number
                raise ValueError(
                    f"seeds: got {seeds!r}; a list with one whole number a prompt is expected"
                ) from None
            if len(seeds) != len(prompts):
                raise ValueError(
                    f"seeds: got {len(seeds)} for {len(prompts)} prompts; give one each"
                )
        requests = [
            self.request(
                prompt, parameters | {"seed": seed}, raw=raw, tools=tools, thinking=thinking
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        results = {
            event.row: event.result for event in self._events(requests) if isinstance(event, End)
        }
        return [results[row] for row in range(len(prompts))]

    def generate_ids(self, prompt_ids: Sequence[int], **parameters: Any) -> Result:
        """The whole answer to a prompt that is token ids already."""
        return _result(self._events([self._request(prompt_ids, parameters)]))

    def _events(self, requests: Sequence[Request]) -> Iterator[CanvasEvent]:
        if self.answers is not None:
            return self.answers(requests)
        return generate_events(self.network, self.processor, requests)

    def request(
        self,
        prompt: Prompt,
        parameters: Mapping[str, Any],
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool = False,
        cancelled: threading.Event | None = None,
    ) -> Request:
        """A prompt and its parameters, checked: what `stream` and the engine run."""
        ids = self.processor.encode_prompt(prompt, raw=raw, tools=tools, thinking=thinking)
        return self._request(ids, parameters, cancelled)

    def _request(
        self,
        ids: Sequence[int],
        parameters: Mapping[str, Any],
        cancelled: threading.Event | None = None,
    ) -> Request:
        network = self.network
        request = make_request(
            ids,
            _parameters(parameters),
            model=network.config,
            defaults=self.generation,
            cancelled=cancelled,
        )
        # Tempered logits are kept in the network's dtype, and float16 ends at 65,504.
        least = network.config.text.final_logit_softcapping / torch.finfo(network.dtype).max
        policy = request.policy
        coldest = min(policy.temperature(step, policy.steps) for step in (0, policy.steps - 1))
        if coldest < least:
            kind = str(network.dtype).removeprefix("torch.")
            raise ValueError(
                f"temperature: got {coldest:.2g} at one of the steps; logits in {kind} need at "
                f"least {least:.2g}: give more, or load the checkpoint in bfloat16 or float32"
            )
        return request


def _parameters(given: Mapping[str, Any]) -> Parameters:
    known = set(Parameters.__dataclass_fields__)
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return Parameters(**given)


def _result(events: Iterator[CanvasEvent]) -> Result:
    return next(event.result for event in events if isinstance(event, End))


def load(
    source: str | Path = "tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    quantize: str | None = None,
    kv_cache_dtype: str = "auto",
    compile: bool | Literal["auto"] = False,
) -> DiffusionGemma:
    """A checkpoint: a folder, a hub id, or one that comes with the package: "tiny", "sudoku9" or
    "infill".

    device: "auto" takes a GPU when there is one. dtype: "float32", "bfloat16", "float16" (not with
    weights in few bits) or "auto": float32 on a CPU, the checkpoint's own elsewhere. adapter: a
    folder with a LoRA adapter in PEFT's format, merged into the weights. quantize: "fp8", "nvfp4"
    or "int4": keep the experts in that format and the other linear maps in FP8, for memory's
    sake; kernels read them as they are stored. A checkpoint that is in few bits on disk
    (docs/quantization.md) takes neither. kv_cache_dtype: "fp8" keeps keys and values in half of
    bfloat16's memory. compile: on a CPU, passes in C++, several times as fast; they need a C++
    compiler once, for some seconds, have a copy of the weights, and do not see it when those are
    changed later. They compute in float32; with dtype "bfloat16" their products read bfloat16 on
    CPUs that have instructions for it. "auto": where there is a compiler, and the network is in
    what the products read anyway.
    ValueError names what is wrong, and comes before the weights are read unless it is about them.
    """
    folder = resolve(source, revision=revision)
    place = pick_device(device)
    if not isinstance(compile, bool) and compile != "auto":
        raise ValueError(f"compile: got {compile!r}; expected True, False or 'auto'")
    if compile is True:
        if place.type != "cpu":
            raise ValueError(
                f"compile: only for the CPU so far, and the device is {place}; leave it out"
            )
        library()  # now, not when the weights are there: it may be missing
    if quantize is not None and (not isinstance(quantize, str) or quantize not in SCHEMES):
        raise ValueError(f"quantize: got {quantize!r}; expected one of {', '.join(SCHEMES)}")
    kept = parse_kv_cache_dtype(kv_cache_dtype)
    model, few_bits = read_config(folder), read_quantization(folder) is not None
    if few_bits:
        _refuse_change(source, adapter=adapter, quantize=quantize)
    wanted = chosen_dtype(folder, model, _dtype(dtype, place))
    if wanted == torch.float16 and (few_bits or quantize is not None):
        raise ValueError(
            "dtype: got float16, whose range is too small for products with weights in few bits; "
            "give bfloat16 or float32"
        )
    if wanted == torch.float16 and compile is True:
        raise ValueError(
            "dtype: got float16, and compile is for float32 and bfloat16: leave one of the two out"
        )
    processor, generation = Processor.load(folder), read_generation_config(folder)
    network = load_network(
        folder,
        dtype=wanted,
        device=place,
        adapter=None if adapter is None else read_adapter(Path(adapter), model),
        quantize=None if quantize is None else SCHEMES[quantize],
    )
    network.kv_cache_dtype = kept
    if compile is True or (compile == "auto" and _compiles_well(network)):
        network.compiled = CompiledPasses(network)
    return DiffusionGemma(network.eval(), processor, generation, source=folder)


def _compiles_well(network: Network) -> bool:
    """Whether it costs a second copy of the weights and nothing else."""
    if network.device.type != "cpu" or is_quantized(network) or not is_available():
        return False
    return products_of(network.dtype) == network.dtype


def _refuse_change(source: str | Path, **given: str | Path | None) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: got {str(value)!r}, but the weights of {source} are in few bits on disk; "
                "leave it out, or give the checkpoint that they were made from"
            )


def _dtype(name: str, device: torch.device) -> torch.dtype | None:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else None
    if name not in DTYPES:
        raise ValueError(f"dtype: got {name!r}; expected one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]

"""What a training run is: a frozen value that a recipe returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from gesso.config import ModelConfig
from gesso.generation_config import GenerationConfig
from gesso.model.lora import LoraConfig
from gesso.model.quantize import SCHEMES
from gesso.values import number, whole

# A JSONL file or a folder of text, or examples in memory.
Data = str | Path | Iterable[Mapping[str, Any]]
Method = Literal["adamw", "muon"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The published objective's choices (one canvas a row, flat weights) and its options.

    causal_weight: weight of the encoder's next-token loss; the denoising loss has weight 1.
    self_conditioning: share of rows that see a soft embedding of a first, gradient-free pass.
    leave_one_out: read the logits as the posterior that does not look at a token's own noisy
    value; the loss then adds what the observation itself says (arXiv 2605.22765).
    min_level: noise levels are uniform in [min_level, 1 - min_level].
    ramp: share of the rows whose level rises along the canvas instead of being even.
    draws: canvases denoised for each encoded row, whose losses are averaged: the encoding, more
    than half of a step's work, then serves them all. 0 trains the causal pass alone: the
    autoregressive twin of a model.
    causal_prompt: whether the causal loss scores the prompt too, or the answer alone.
    unroll: share of the self-conditioned rows on whose canvas the sampler runs, for one to
    `unroll_steps` steps, so that the pass which is scored meets, and learns to mend, the model's
    own mistakes (SUNDAE, arXiv 2112.06749). Each row draws its entropy bound log-uniformly from
    `unroll_bounds`, and the temperature of its logits evenly from `unroll_temperatures`.
    cache_gradient: whether the denoising loss trains the encoding of what the canvas reads too;
    without, the causal loss alone does.
    slip: share of the canvases of which a stretch stands a few places too early or too late.
    fill_weight: of a place behind the answer's end in the denoising loss, beside 1 for the others.
    Each row's mean is over weights, so that a short answer on a long canvas counts in full.
    """

    causal_weight: float = 1.0
    self_conditioning: float = 0.5
    leave_one_out: bool = False
    min_level: float = 1e-4
    ramp: float = 0.0
    draws: int = 1
    causal_prompt: bool = True
    cache_gradient: bool = True
    unroll: float = 0.0
    unroll_steps: int = 1
    unroll_bounds: tuple[float, float] = (0.02, 5.0)
    unroll_temperatures: tuple[float, float] = (1.0, 1.0)
    slip: float = 0.0
    fill_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("self_conditioning", "ramp", "unroll", "slip", "fill_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}; a share between 0 and 1 is expected"
                )
        if self.draws < 0:
            raise ValueError(f"draws: got {self.draws}; expected 0 or more")
        number("causal_weight", self.causal_weight, zero=True)
        if not self.draws and not self.causal_weight:
            raise ValueError("draws and causal_weight: got 0 for both; nothing would be trained")
        if self.unroll_steps < 1:
            raise ValueError(f"unroll_steps: got {self.unroll_steps}; expected at least 1")
        for name in ("unroll_bounds", "unroll_temperatures"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}; expected two rising numbers above 0"
                )
        if self.unroll and self.leave_one_out:
            raise ValueError(
                "unroll and leave_one_out: got both; the leave-one-out head needs the noise level "
                "of every token, which a canvas of the model's own does not have: choose one"
            )
        if self.slip and self.leave_one_out:
            raise ValueError(
                "slip and leave_one_out: got both; the leave-one-out head takes a token for the "
                "answer's own or noise, and one that slipped is its neighbour's: choose one"
            )
        if not 0.0 <= self.min_level < 0.5:
            raise ValueError(f"min_level: got {self.min_level}; expected 0 or more, below 0.5")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW or Muon with a linear warm-up and a cosine to `final_lr_share` of the peak.

    method: "adamw" for everything, or "muon" for the linear maps of the layers, which then also
    have `momentum`; embedding, routers, norms and scales stay with AdamW. Muon's updates are scaled
    to AdamW's size, so that one learning rate and one decay serve both.
    clip: largest global gradient norm. ema_decay: of the averaged weights that are saved as the
    checkpoint; it ramps up from 0 so that early weights are forgotten; 0 switches averaging off.
    """

    method: Method = "adamw"
    lr: float = 1e-3
    warmup_steps: int = 200
    final_lr_share: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    momentum: float = 0.95
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        if self.method not in (known := get_args(Method)):
            raise ValueError(f"method: got {self.method!r}; expected one of {', '.join(known)}")
        number("lr", self.lr)
        number("clip", self.clip)
        number("weight_decay", self.weight_decay, zero=True)
        whole("warmup_steps", self.warmup_steps, low=0)
        shares = {"momentum": self.momentum, "ema_decay": self.ema_decay}
        shares |= {f"betas[{i}]": beta for i, beta in enumerate(self.betas)}
        for name, share in shares.items():
            if number(name, share, zero=True) >= 1:
                raise ValueError(f"{name}: got {share}; expected 0 or more, below 1")
        if number("final_lr_share", self.final_lr_share, zero=True) > 1:
            raise ValueError(f"final_lr_share: got {self.final_lr_share}; expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What the averaged weights are judged by every so many steps of a run.

    n: examples of the task's split, drawn by `seed`. patience: end the run after so many
    judgements in a row without a better share of exact answers; 0 never does.
    """

    task: str
    every: int
    split: str = "held"
    n: int = 64
    seed: int = 1
    patience: int = 0

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("n", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run.

    model: start from random weights of this shape. base: start from a checkpoint, a folder or a
    hub id; `model` is then the shape that it must have, which spares a dry run the download, and
    says how long the canvases are: short answers are cheaper to learn on shorter ones.
    lora: leave the base as it is and train an adapter of this shape.
    quantize: hold that base as "fp8", "nvfp4" or "int4" meanwhile (QLoRA, arXiv 2305.14314).
    processor: folder or hub id with tokenizer and chat template, copied into the checkpoint.
    tasks: name -> share of the examples. data: the same for the user's own, as a mapping or as
    (source, share) pairs: JSONL files, folders of text, or objects in memory, such as a list or a
    `datasets.Dataset`. skip_bad: leave out what is bad in them instead of refusing all.
    evaluation: judge while training, and keep what was judged best.
    generation: the defaults that the checkpoint will have; without, those of the base, or the
    published ones.
    dtype: of the working copy of the weights; masters and moments stay in float32. "auto" takes
    bfloat16 where the device has products for it, else float32.
    device: "auto" takes a GPU when there is one.
    batch_size: in examples. candidates: so many examples are read for each that is trained on, and
    the ones that the causal pass knows least are taken: late in a run most are known. A wrong
    answer in the data is always among them, so it is for data that are right.
    accumulate: a batch goes through the network in so many parts, for
    memory's sake; losses and gradients are those of the whole.
    checkpoint_activations: keep the layers' inputs alone for the gradient and compute the rest
    again: the same gradients, from less memory and in more time.
    expert_parallel: over how many of torchrun's processes the experts are spread; the other
    weights are sharded over all.
    save_every, log_every: in steps. tensorboard: write the log for it too, into `tensorboard/`.
    """

    steps: int
    batch_size: int
    processor: str | Path
    tasks: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[Data, float] | Sequence[tuple[Data, float]] = ()
    skip_bad: bool = False
    tensorboard: bool = False
    model: ModelConfig | None = None
    base: str | Path | None = None
    lora: LoraConfig | None = None
    quantize: str | None = None
    evaluation: EvaluationConfig | None = None
    generation: GenerationConfig | None = None
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    dtype: str = "auto"
    device: str = "auto"
    candidates: int = 1
    accumulate: int = 1
    checkpoint_activations: bool = False
    expert_parallel: int = 1
    seed: int = 0
    save_every: int = 500
    log_every: int = 20

    def __post_init__(self) -> None:
        if self.model is None and self.base is None:
            raise ValueError(
                "a recipe gives model (random weights) or base (a checkpoint to start from)"
            )
        if self.lora is not None and self.base is None:
            raise ValueError("lora: an adapter belongs to a checkpoint; give base instead of model")
        if self.quantize is not None and (self.lora is None or self.quantize not in SCHEMES):
            raise ValueError(
                f"quantize: got {self.quantize!r}; expected one of {', '.join(SCHEMES)}, and lora "
                "with it: weights in few bits cannot be trained themselves"
            )
        shares = [*self.tasks.values(), *(share for _, share in self.sources)]
        if not shares or min(shares) <= 0:
            raise ValueError(
                f"tasks: got {dict(self.tasks)}, data: shares of "
                f"{[share for _, share in self.sources]}; "
                "at least one of them with a share above 0 is expected"
            )
        # What draws the noise is seeded by it a million times over, in 63 bits.
        whole("seed", self.seed, low=0, high=2**43 - 1)
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"dtype: got {self.dtype!r}; expected auto, float32 or bfloat16")
        for name in (
            "steps", "batch_size", "candidates", "accumulate", "expert_parallel",
            "save_every", "log_every",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected at least 1")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate: got {self.accumulate} parts of a batch of {self.batch_size}; "
                "give at most one part an example"
            )

    @property
    def sources(self) -> Sequence[tuple[Data, float]]:
        """`data` as pairs."""
        return tuple(self.data.items()) if isinstance(self.data, Mapping) else tuple(self.data)

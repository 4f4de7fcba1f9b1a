"""The training objective: one random canvas a row, denoised; the encoder's next token beside it.

A row is encoded once, clean and causal. One of its canvases is corrupted at a uniform noise level
and denoised against the encoded columns before it; every position is scored, corrupted or not,
the fill after the answer too, by default with weight 1. The encoder's hidden states are scored as
a causal language model: in small models that loss is what teaches copying. Gradients flow through
the cache. (Published recipe of google-deepmind/gemma and NeMo; self-conditioning is gated by a
mask, so that "off" is a true zero, as at inference.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gesso.cache import KVCache
from gesso.diffusion.draws import invert_cumulative
from gesso.diffusion.noise import corrupt, ramp, slip
from gesso.diffusion.sampler import EntropyBound
from gesso.generation.denoiser import NetworkDenoiser
from gesso.kernels.cross_entropy import Offset, cross_entropy
from gesso.model.network import Network
from gesso.training.config import ObjectiveConfig
from gesso.training.data import Batch


class Losses(NamedTuple):
    """total (): what is minimised. denoise, causal (): means over rows of means over positions,
    in nats a token; not a likelihood bound. denoise_hits (): share of canvas tokens right."""

    total: Tensor
    denoise: Tensor
    causal: Tensor
    denoise_hits: Tensor


class CanvasNoise(NamedTuple):
    """All that is random about one canvas of each row; uniforms in [0, 1).

    Drawn before the network sees the batch, so that any part of a batch, on any machine, meets
    what it would have met in the whole.
    """

    canvas: Tensor  # (B,) which of the row's canvases
    level: Tensor  # (B,) its noise level
    redraw: Tensor  # (B, L) which tokens are redrawn
    tokens: Tensor  # (B, L) as what, int64
    self_conditioning: Tensor  # (B,) whether there is a first pass
    ramp: Tensor  # (B, 2) whether the level is a ramp, and its width
    unroll: Tensor  # (B, 4) whether the sampler runs on it, for how many steps, bound, temperature
    sample: Tensor  # (B, K, L) which tokens each of its steps samples
    renoise: Tensor  # (B, K, L) what it renoises with, int64
    slip: Tensor  # (B, 4) whether a stretch slips, how far, from where, until where

    def rows(self, rows: slice) -> CanvasNoise:
        return CanvasNoise(*(tensor[rows] for tensor in self))

    def to(self, device: torch.device) -> CanvasNoise:
        return CanvasNoise(*(tensor.to(device) for tensor in self))


def draw_noise(
    rows: int, *, length: int, vocab_size: int, generator: torch.Generator, steps: int = 1
) -> CanvasNoise:
    """For a batch of so many rows and at most `steps` steps of the sampler; on the CPU, so that a
    training step is the same on every device."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def tokens(*shape: int) -> Tensor:
        return torch.randint(vocab_size, shape, generator=generator)

    return CanvasNoise(
        canvas=uniform(rows),
        level=uniform(rows),
        redraw=uniform(rows, length),
        tokens=tokens(rows, length),
        self_conditioning=uniform(rows),
        ramp=uniform(rows, 2),
        unroll=uniform(rows, 4),
        sample=uniform(rows, steps, length),
        renoise=tokens(rows, steps, length),
        slip=uniform(rows, 4),
    )


def unscored_passes(noise: CanvasNoise, config: ObjectiveConfig) -> Tensor:
    """How often the network looks at each row's canvas (B,) before the pass that is scored."""
    _, count, *_ = noise.unroll.unbind(1)
    unrolled = noise.unroll[:, 0] < config.unroll
    passes = torch.where(unrolled, 1 + (count * config.unroll_steps).long(), 1)
    return torch.where(noise.self_conditioning < config.self_conditioning, passes, 0)


def training_loss(
    network: Network,
    batch: Batch,
    config: ObjectiveConfig,
    noise: Sequence[CanvasNoise],
    *,
    rounds: Sequence[int] | None = None,
) -> Losses:
    """The objective on one batch: a canvas of each row for every entry of `noise`.

    Without any, the causal loss alone. rounds: of unscored passes for each entry, when they are to
    be more than these rows need: processes that share the weights call the network equally often.
    """
    batch = batch.to(network.device)
    cache = network.new_cache(batch_size=len(batch.ids), trim=False)
    # The fill is predicted on the canvas; the causal pass stops one token after the answer, for
    # no later canvas reads the columns behind it.
    width = int((batch.prompt_length + batch.answer_length).max())
    hidden = network.encode(batch.ids[:, :width], cache=cache)
    causal = _causal_loss(network, hidden, batch, config, width)
    if not noise:
        none = torch.zeros_like(causal)
        return Losses(config.causal_weight * causal, none, causal, none)
    if not config.cache_gradient:
        cache = cache.detach()
    drawn = [
        _denoising_loss(network, cache, batch, config, canvas.to(network.device), least)
        for canvas, least in zip(noise, rounds or [0] * len(noise), strict=True)
    ]
    denoise, hits = (torch.stack(values).mean() for values in zip(*drawn, strict=True))
    return Losses(denoise + config.causal_weight * causal, denoise, causal, hits)


@torch.no_grad()
def answer_losses(network: Network, batch: Batch) -> Tensor:
    """What the causal pass has left to learn of each row's answer, in nats (B,), on the CPU."""
    batch = batch.to(network.device)
    end = batch.prompt_length + batch.answer_length
    ids = batch.ids[:, : int(end.max())]
    hidden = network.encode(ids, cache=network.new_cache(batch_size=len(ids), trim=False))
    losses = []
    for row, (first, last) in enumerate(zip(batch.prompt_length, end, strict=True)):
        target = ids[row, first:last]
        loss, _ = cross_entropy(
            hidden[row, first - 1 : last - 1],
            network.embed.weight.detach(),
            target,
            torch.ones_like(target, dtype=_loss_dtype(network)),
            network.config.text.final_logit_softcapping,
        )
        losses.append(loss)
    return torch.stack(losses).cpu()


def _causal_loss(
    network: Network, hidden: Tensor, batch: Batch, config: ObjectiveConfig, width: int
) -> Tensor:
    end = batch.prompt_length + batch.answer_length
    target = torch.arange(1, width, device=end.device)
    valid = target < end[:, None]  # (B, width - 1): the target is a real token
    if not config.causal_prompt:
        valid &= target >= batch.prompt_length[:, None]
    weight = valid.to(_loss_dtype(network)) / valid.sum(1, keepdim=True) / len(valid)
    loss, _ = cross_entropy(
        hidden[:, :-1][valid],
        network.embed.weight,
        batch.ids[:, 1:width][valid],
        weight[valid],
        network.config.text.final_logit_softcapping,
    )
    return loss


def _denoising_loss(
    network: Network,
    cache: KVCache,
    batch: Batch,
    config: ObjectiveConfig,
    noise: CanvasNoise,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    rows, length, device = len(batch.ids), network.config.canvas_length, network.device
    starts = batch.prompt_length + (noise.canvas * batch.canvases).long() * length  # (B,)
    positions = starts[:, None] + torch.arange(length, device=device)  # (B, L)
    clean = batch.ids.gather(1, positions)
    level = _levels(noise, config, length, _loss_dtype(network))  # (B, 1) or (B, L)
    shown = slip(clean, noise.slip, share=config.slip)
    noisy = corrupt(shown, level, uniform=noise.redraw, noise=noise.tokens)
    soft = None
    if rounds := max(rounds, int(unscored_passes(noise, config).max())):
        soft, noisy = _sampled(network, cache, noisy, positions, starts, noise, config, rounds)
    hidden = network.denoise_hidden(
        noisy, cache=cache, soft=soft, positions=positions, starts=starts
    )
    answer = positions < (batch.prompt_length + batch.answer_length)[:, None]
    weight = answer.to(_loss_dtype(network)).clamp(min=config.fill_weight)
    weight = weight / weight.sum(1, keepdim=True) / rows
    offset = None
    if config.leave_one_out:
        # Where a ramp has no noise at all the observation says everything: bounded, not infinite.
        level = level.expand(rows, length).clamp(min=config.min_level or 1e-4)
        amount = torch.log1p(network.config.text.vocab_size * (1 - level) / level)
        offset = Offset(noisy.flatten(), amount.flatten())
    loss, hits = cross_entropy(
        hidden.flatten(0, 1),
        network.embed.weight,
        clean.flatten(),
        weight.flatten(),
        network.config.text.final_logit_softcapping,
        offset,
    )
    return loss, hits.float().mean()


def _levels(noise: CanvasNoise, config: ObjectiveConfig, length: int, dtype: torch.dtype) -> Tensor:
    """Even levels (B, 1); with ramps (B, L), the given share rising at a random place and width."""
    level = config.min_level + (1 - 2 * config.min_level) * noise.level.to(dtype)
    if not config.ramp:
        return level[:, None]
    coin, width = noise.ramp.unbind(1)
    ramps = ramp(level, 0.02 + 0.5 * width.to(dtype), length=length)
    return torch.where((coin < config.ramp)[:, None], ramps, level[:, None])


@torch.no_grad()
def _sampled(
    network: Network,
    cache: KVCache,
    noisy: Tensor,
    positions: Tensor,
    starts: Tensor,
    noise: CanvasNoise,
    config: ObjectiveConfig,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    """What the network makes of the canvases before the pass that is scored.

    A pass gives a row its soft embedding; the unrolled ones then take the sampler's step and may
    go on. Returns soft embeddings (B, L, M), zero for rows without a pass, and canvases (B, L).
    """
    coin, _, place, heat = noise.unroll.split(1, dim=1)  # (B, 1)
    unrolled, passes = coin < config.unroll, unscored_passes(noise, config)
    low, high = (math.log(bound) for bound in config.unroll_bounds)
    bound = (low + (high - low) * place).exp()
    cool, hot = config.unroll_temperatures
    temperature = (cool + (hot - cool) * heat)[:, None]  # (B, 1, 1)
    denoiser = NetworkDenoiser(network, cache, positions, starts=starts)
    canvas, soft = noisy, denoiser.no_soft_embedding()
    for index in range(rounds):
        rows = (passes > index).nonzero()[:, 0]
        if idle := not len(rows):
            rows = torch.zeros(1, dtype=torch.int64, device=noisy.device)
        before = soft[rows] if index else None
        reading = denoiser.select(rows).read(canvas[rows], before, temperature[rows])
        if idle:
            continue
        soft = soft.index_copy(0, rows, reading.soft)
        if not config.unroll:
            continue
        accepted = EntropyBound(bound=bound[rows])(reading.belief.entropy)
        sampled = invert_cumulative(reading.belief.probabilities, noise.sample[rows, index])
        stepped = torch.where(accepted, sampled, noise.renoise[rows, index])
        canvas = canvas.index_copy(0, rows, torch.where(unrolled[rows], stepped, canvas[rows]))
    return soft, canvas


def _loss_dtype(network: Network) -> torch.dtype:
    """float32, but float64 for a network in double precision."""
    return torch.promote_types(network.dtype, torch.float32)

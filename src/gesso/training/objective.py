"""The training objective: one random canvas a row, denoised; the encoder's next token beside it.

A row is encoded once, clean and causal. One of its canvases is corrupted at a uniform noise level
and denoised against the encoded columns before it; every position is scored, corrupted or not,
the fill after the answer too, with weight 1. The encoder's hidden states are scored as a causal
language model: in small models that loss is what teaches copying. Gradients flow through the
cache. (Published recipe of google-deepmind/gemma and NeMo; self-conditioning is gated by a mask,
so that "off" is a true zero, as at inference.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gesso.cache import KVCache
from gesso.diffusion.noise import corrupt, ramp
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


def training_loss(
    network: Network, batch: Batch, config: ObjectiveConfig, *, generator: torch.Generator
) -> Losses:
    """The objective on one batch; `generator` draws canvases, noise levels, noise and coins."""
    cache = network.new_cache(batch_size=len(batch.ids), trim=False)
    # The fill is predicted on the canvas; the causal pass stops one token after the answer, for
    # no later canvas reads the columns behind it.
    width = int((batch.prompt_length + batch.answer_length).max())
    hidden = network.encode(batch.ids[:, :width], cache=cache)
    causal = _causal_loss(network, hidden, batch, config, width)
    drawn = [_denoising_loss(network, cache, batch, config, generator) for _ in range(config.draws)]
    denoise, hits = (torch.stack(values).mean() for values in zip(*drawn, strict=True))
    return Losses(denoise + config.causal_weight * causal, denoise, causal, hits)


def _causal_loss(
    network: Network, hidden: Tensor, batch: Batch, config: ObjectiveConfig, width: int
) -> Tensor:
    end = batch.prompt_length + batch.answer_length
    target = torch.arange(1, width)
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
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    rows, length = len(batch.ids), network.config.canvas_length
    chosen = (torch.rand(rows, generator=generator) * batch.canvases).long()
    starts = batch.prompt_length + chosen * length  # (B,)
    positions = starts[:, None] + torch.arange(length)  # (B, L)
    clean = batch.ids.gather(1, positions)
    uniform = torch.rand(rows, generator=generator).to(_loss_dtype(network))
    level = config.min_level + (1 - 2 * config.min_level) * uniform
    if config.ramp:
        level = _with_ramps(level, config.ramp, length, generator)  # (B, L)
    vocab_size = network.config.text.vocab_size
    noisy = corrupt(clean, level, vocab_size=vocab_size, generator=generator)
    coin = torch.rand(rows, generator=generator) < config.self_conditioning
    soft = _first_guess(network, cache, noisy, positions, starts, coin)
    hidden = network.denoise_hidden(
        noisy, cache=cache, soft=soft, positions=positions, starts=starts
    )
    weight = torch.full((rows * length,), 1 / (rows * length), dtype=_loss_dtype(network))
    offset = None
    if config.leave_one_out:
        # Where a ramp has no noise at all the observation says everything: bounded, not infinite.
        level = level.view(rows, -1).expand(rows, length).clamp(min=config.min_level or 1e-4)
        amount = torch.log1p(vocab_size * (1 - level) / level)
        offset = Offset(noisy.flatten(), amount.flatten())
    loss, hits = cross_entropy(
        hidden.flatten(0, 1),
        network.embed.weight,
        clean.flatten(),
        weight,
        network.config.text.final_logit_softcapping,
        offset,
    )
    return loss, hits.float().mean()


def _with_ramps(level: Tensor, share: float, length: int, generator: torch.Generator) -> Tensor:
    """Even levels (B,), the given share of them replaced by ramps of random place and width."""
    coin, width = torch.rand(2, len(level), generator=generator)
    ramps = ramp(level, 0.02 + 0.5 * width.to(level.dtype), length=length)
    return torch.where((coin < share)[:, None], ramps, level[:, None])


@torch.no_grad()
def _first_guess(
    network: Network, cache: KVCache, noisy: Tensor, positions: Tensor, starts: Tensor, coin: Tensor
) -> Tensor | None:
    """Soft embeddings of a first pass for the rows whose coin fell so, zero for the others."""
    picked = coin.nonzero()[:, 0]
    if len(picked) == 0:
        return None
    logits = network.denoise(
        noisy[picked],
        cache=cache.select(picked),
        positions=positions[picked],
        starts=starts[picked],
    )
    soft = network.soft_embed(logits)
    zeros = soft.new_zeros(len(noisy), *soft.shape[1:])  # (B, L, M)
    return zeros.index_copy(0, picked, soft)


def _loss_dtype(network: Network) -> torch.dtype:
    """float32, but float64 for a network in double precision."""
    return torch.promote_types(network.dtype, torch.float32)

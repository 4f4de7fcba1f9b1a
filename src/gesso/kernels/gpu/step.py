"""The small end of a denoising step: draws, acceptance, renoise and stopping, on the device.

    accepted[i] = (sum of the entropies before i, in ascending order) <= bound
    tokens = sampled where accepted, else noise
    finished |= (argmax equals the earlier ones and mean entropy < confidence) or the last step

The definitions are `gesso.diffusion`: `rng` and `draws` (the same integers), `EntropyBound`,
`StableAndConfident` and `loop.step`. There a step is some forty small operators, and the loop asks
the device after each whether rows are finished. Here it is one launch, whose parameters and state
are tensors, a value a row: it can be recorded in a graph, and whoever steers looks at `finished`
when it likes. A finished row stays as it is, so that looking late changes nothing but time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Entropies that a canvas's are compared with at a time.
_CHUNK = 16
# Positions of a program that only draws.
_TILE = 256


class RowPolicy(NamedTuple):
    """What the rows of a batch ask for, each (B,).

    steps int64: after as many a row is finished. bound float32, nats: of acceptance. stability
    int64: how many earlier argmax canvases have to equal this one, at most the state's K.
    confidence float32: what the mean entropy has to be below; 0 for never early.
    """

    steps: Tensor
    bound: Tensor
    stability: Tensor
    confidence: Tensor


class RowState(NamedTuple):
    """What `advance` changes, in place.

    tokens (B, L) int64: the canvas. earlier (B, K, L) int64: the last K argmax canvases before the
    next step, the newest last, -1 where there was none. step (B,) int64: steps done. finished (B,)
    bool.
    """

    tokens: Tensor
    earlier: Tensor
    step: Tensor
    finished: Tensor


@triton.jit
def _word(seeds_ptr, row, position, step, canvas, STREAM: tl.constexpr):
    """One word of 32 bits a position, as `rng.random_bits`: key = the seed's halves, counter =
    (position, step, canvas, stream)."""
    seed = tl.load(seeds_ptr + 2 * row) | (tl.load(seeds_ptr + 2 * row + 1) << 32)
    c0 = position.to(tl.uint32)
    zero = c0 * 0
    bits, _, _, _ = tl.philox(
        seed, c0, zero + step.to(tl.uint32), zero + canvas.to(tl.uint32), zero + STREAM
    )
    return bits


@triton.jit
def _token(bits, ids):
    return (bits.to(tl.int64) * ids) >> 32


@triton.jit
def _draw_kernel(
    seeds_ptr,  # (B, 2)
    canvas_ptr,  # (B,)
    step_ptr,  # (B,)
    out_ptr,  # (B, L)
    length,
    STREAM: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * TILE + tl.arange(0, TILE)
    step, canvas = tl.load(step_ptr + row), tl.load(canvas_ptr + row)
    bits = _word(seeds_ptr, row, position, step, canvas, STREAM)
    # 24 bits as a float32: times 2**-24.
    uniform = (bits >> 8).to(tl.float32) * 5.9604644775390625e-08
    tl.store(out_ptr + row * length + position, uniform, mask=position < length)


@triton.jit
def _advance_kernel(
    argmax_ptr,  # (B, L), as the next two
    entropy_ptr,
    sampled_ptr,
    seeds_ptr,  # (B, 2)
    canvas_ptr,  # (B,), as the next four
    steps_ptr,
    bound_ptr,
    stability_ptr,
    confidence_ptr,
    tokens_ptr,  # (B, L)
    earlier_ptr,  # (B, K, L)
    step_ptr,  # (B,), as the next
    finished_ptr,
    accepted_ptr,  # (B, L)
    length,
    ids,
    STREAM: tl.constexpr,
    MEMORY: tl.constexpr,
    LENGTH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    position = tl.arange(0, LENGTH)
    real = position < length
    place = row * length + position
    step = tl.load(step_ptr + row)
    running = tl.load(finished_ptr + row) == 0
    changed = position < tl.where(running, length, 0)

    entropy = tl.load(entropy_ptr + place, mask=real, other=float("inf"))
    before = tl.zeros((LENGTH,), tl.float32)
    rank = tl.zeros((LENGTH,), tl.int32)
    for start in range(0, length, CHUNK):
        other = start + tl.arange(0, CHUNK)
        theirs = tl.load(entropy_ptr + row * length + other, mask=other < length, other=0.0)
        surer = (theirs[None, :] < entropy[:, None]) | (
            (theirs[None, :] == entropy[:, None]) & (other[None, :] < position[:, None])
        )
        surer = surer & (other < length)[None, :]
        before += tl.sum(tl.where(surer, theirs[None, :], 0.0), 1)
        rank += tl.sum(surer.to(tl.int32), 1)
    # Each sum rounds by itself; what is accepted is a prefix of the order all the same.
    stays = before <= tl.load(bound_ptr + row)
    limit = tl.min(tl.where(stays | (position >= length), LENGTH, rank), 0)
    accepted = (rank < limit) & changed
    tl.store(accepted_ptr + place, accepted, mask=real)

    noise = _token(_word(seeds_ptr, row, position, step, tl.load(canvas_ptr + row), STREAM), ids)
    sampled = tl.load(sampled_ptr + place, mask=real, other=0)
    tl.store(tokens_ptr + place, tl.where(accepted, sampled, noise), mask=changed)

    argmax = tl.load(argmax_ptr + place, mask=real, other=0)
    stability = tl.load(stability_ptr + row)
    moved = tl.zeros((LENGTH,), tl.int32)
    for index in tl.static_range(MEMORY):
        slot = (row * MEMORY + index) * length + position
        earlier = tl.load(earlier_ptr + slot, mask=real, other=0)
        counts = tl.where(index >= MEMORY - stability, 1, 0)
        moved += (earlier != argmax).to(tl.int32) * counts
        if index > 0:
            tl.store(earlier_ptr + slot - length, earlier, mask=changed)
        if index == MEMORY - 1:
            tl.store(earlier_ptr + slot, argmax, mask=changed)
    mean = tl.sum(tl.where(real, entropy, 0.0), 0) / length
    certain = (tl.max(moved, 0) == 0) & (mean < tl.load(confidence_ptr + row))
    last = step + 1 >= tl.load(steps_ptr + row)
    tl.debug_barrier()  # every warp has read the row's numbers before one writes them
    tl.store(step_ptr + row, step + 1, mask=running)
    tl.store(finished_ptr + row, certain | last, mask=running)


def draw_uniforms(
    seeds: Tensor, canvas: Tensor, step: Tensor, *, stream: int, length: int
) -> Tensor:
    """seeds (B, 2) halves, canvas (B,), step (B,), all int64 -> (B, L) float32 in [0, 1)."""
    batch = len(seeds)
    _check_words(batch, seeds, canvas, step)
    out = torch.empty(batch, length, dtype=torch.float32, device=seeds.device)
    _draw_kernel[(batch, triton.cdiv(length, _TILE))](
        seeds, canvas, step, out, length, STREAM=int(stream), TILE=_TILE, num_warps=4
    )
    return out


def advance(
    state: RowState,
    policy: RowPolicy,
    *,
    argmax: Tensor,
    entropy: Tensor,
    sampled: Tensor,
    seeds: Tensor,
    canvas: Tensor,
    stream: int,
    vocab_size: int,
) -> Tensor:
    """One step of every row that is not finished; `state` is changed in place.

    argmax and sampled (B, L) int64, entropy (B, L) float32: what the head says of the canvas.
    seeds (B, 2) and canvas (B,) int64: what noise is drawn by, in `stream`. Returns which
    positions were accepted, (B, L) bool; in finished rows, none.
    """
    batch, length = state.tokens.shape
    memory = state.earlier.shape[1]
    assert state.earlier.shape == (batch, memory, length)
    assert (state.finished.shape, state.finished.dtype) == ((batch,), torch.bool)
    for tensor in (argmax, sampled, state.tokens):
        assert (tensor.shape, tensor.dtype) == ((batch, length), torch.int64)
    assert (entropy.shape, entropy.dtype) == ((batch, length), torch.float32)
    for tensor in (policy.bound, policy.confidence):
        assert (tensor.shape, tensor.dtype) == ((batch,), torch.float32)
    _check_words(batch, seeds, canvas, state.step, policy.steps, policy.stability)
    given = (argmax, entropy, sampled, seeds, canvas, *policy, *state)
    assert all(tensor.is_contiguous() for tensor in given)

    accepted = torch.empty(batch, length, dtype=torch.bool, device=entropy.device)
    padded = triton.next_power_of_2(length)
    _advance_kernel[(batch,)](
        *given, accepted, length, vocab_size,
        STREAM=int(stream), MEMORY=memory, LENGTH=padded, CHUNK=_CHUNK,
        # No warp has positions of another's, which could read a draft that is written already.
        num_warps=max(1, min(8, padded // 32)),
    )  # fmt: skip
    return accepted


def _check_words(batch: int, seeds: Tensor, *counters: Tensor) -> None:
    assert (seeds.shape, seeds.dtype) == ((batch, 2), torch.int64)
    for counter in counters:
        assert (counter.shape, counter.dtype) == ((batch,), torch.int64)
    assert all(words.is_contiguous() for words in (seeds, *counters))

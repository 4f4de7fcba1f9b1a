"""A step's small end against `gesso.diffusion`, and a whole step through all three kernels."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gesso.cache import KVCache
from gesso.diffusion.draws import SeededDraws
from gesso.diffusion.loop import CanvasState, Policy, step
from gesso.diffusion.rng import Stream, random_bits, split_seeds, to_uniform
from gesso.diffusion.sampler import EntropyBound
from gesso.diffusion.schedule import LinearTemperature
from gesso.diffusion.stopping import StableAndConfident
from gesso.generation.denoiser import NetworkDenoiser
from gesso.kernels.gpu.head import head
from gesso.kernels.gpu.soft_embed import soft_embed
from gesso.kernels.gpu.step import (
    RowPolicy,
    RowState,
    advance,
    draw_uniforms,
)
from gesso.model.network import Network

# Both halves count, and all their bits.
SEEDS = [0, 0x299F31D0_A4093822, (1 << 64) - 1]
V = 97


def test_draws_are_the_same_integers(device: torch.device) -> None:
    """A canvas of more than one program; canvases and steps differ from row to row."""
    seeds = split_seeds(SEEDS, device)
    canvas = torch.tensor([0, 7, 2**31 + 5], device=device)
    steps = torch.tensor([3, 0, 2**32 - 1], device=device)
    for length in (5, 261):
        uniforms = draw_uniforms(seeds, canvas, steps, stream=Stream.SAMPLE, length=length)
        for row in range(len(SEEDS)):
            at = int(steps[row])
            bits = random_bits(
                seeds[row : row + 1],
                canvas=int(canvas[row]),
                steps=range(at, at + 1),
                length=length,
            )[Stream.SAMPLE, 0, 0]
            assert torch.equal(uniforms[row], to_uniform(bits))


def test_streams_differ(device: torch.device) -> None:
    seeds, zero = split_seeds([5], device), torch.zeros(1, dtype=torch.int64, device=device)
    drawn = [draw_uniforms(seeds, zero, zero, stream=s, length=64) for s in Stream]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not (drawn[one] == drawn[other]).any()


def begin(tokens: Tensor, *, memory: int) -> RowState:
    """Canvases before their first step."""
    batch, length = tokens.shape
    return RowState(
        tokens=tokens,
        earlier=tokens.new_full((batch, memory, length), -1),
        step=tokens.new_zeros(batch),
        finished=tokens.new_zeros(batch, dtype=torch.bool),
    )


class Batch:
    """Rows that differ in all that a row may ask for; what the head says of them is made up."""

    def __init__(self, *, length: int, memory: int, device: torch.device, rows: int = 3) -> None:
        generator = torch.Generator().manual_seed(length)
        self.device = device
        self.seeds = split_seeds(SEEDS[:rows], device)
        self.canvas = torch.tensor([0, 4, 1][:rows], device=device)
        shape = (rows, length)
        self.state = begin(torch.randint(V, shape, generator=generator).to(device), memory=memory)
        # Quarters add up without rounding: sums that equal a bound do so exactly; and many tie.
        self.entropy = torch.randint(9, shape, generator=generator).to(device) / 4
        self.argmax = torch.randint(V, shape, generator=generator).to(device)
        self.sampled = torch.randint(V, shape, generator=generator).to(device)
        self.policy = self.ask(
            steps=[48] * rows,
            bound=[0.5 * row * length for row in range(rows)],
            stability=[memory] * rows,
            confidence=[0.0] * rows,
        )

    def ask(self, **given: list) -> RowPolicy:
        made = {name: torch.tensor(values, device=self.device) for name, values in given.items()}
        return RowPolicy(**made)

    def advance(self) -> Tensor:
        return advance(
            self.state,
            self.policy,
            argmax=self.argmax,
            entropy=self.entropy,
            sampled=self.sampled,
            seeds=self.seeds,
            canvas=self.canvas,
            stream=Stream.RENOISE_TOKEN,
            vocab_size=V,
        )


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("length", [1, 5, 16, 67])
def test_acceptance_and_renoise(length: int, device: torch.device) -> None:
    batch = Batch(length=length, memory=1, device=device)
    for at in range(2):
        accepted = batch.advance()
        expected = EntropyBound(bound=batch.policy.bound[:, None])(batch.entropy)
        assert torch.equal(accepted, expected)
        for row in range(3):
            draws = SeededDraws(
                batch.seeds[row : row + 1], length=length, vocab_size=V, device=device
            )
            noise = draws.renoise(canvas=int(batch.canvas[row]), step=at)[0]
            tokens = torch.where(expected[row], batch.sampled[row], noise)
            assert torch.equal(batch.state.tokens[row], tokens)
        assert batch.state.step.tolist() == [at + 1] * 3


def test_entropies_in_general_against_the_definition(device: torch.device) -> None:
    """Sums that round: no bound here is within 1e-3 of one, some thousand times what that moves."""
    batch = Batch(length=61, memory=0, device=device)
    entropy = 3 * torch.rand(3, 61, generator=torch.Generator().manual_seed(4)).square()
    batch.entropy = entropy.to(device)
    sums = entropy.sort(-1).values.double().cumsum(-1)
    for row, count in enumerate((9, 30, 60)):
        bound = float(sums[row, count - 2 : count].mean())
        assert (sums[row] - bound).abs().min() > 1e-3
        batch.policy.bound[row] = bound
    accepted = batch.advance()
    assert accepted.sum(-1).tolist() == [9, 30, 60]
    assert torch.equal(accepted, EntropyBound(bound=batch.policy.bound[:, None])(batch.entropy))


def test_the_surest_is_always_accepted_and_ties_go_by_position(device: torch.device) -> None:
    batch = Batch(length=6, memory=0, device=device)
    batch.entropy[:] = 2.0
    batch.policy.bound[:] = torch.tensor([0.0, 2.0, 5.0])
    assert batch.advance().sum(-1).tolist() == [1, 2, 3]
    assert batch.advance().long().argmin(-1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("memory", [0, 1, 3])
def test_stopping_against_the_definition(memory: int, device: torch.device) -> None:
    """Argmax canvases repeat now and then; the mean entropy is now below, now at the bound."""
    batch = Batch(length=7, memory=memory, device=device)
    stability = [0, min(1, memory), memory]
    batch.policy = batch.ask(
        steps=[99] * 3, bound=[1.0] * 3, stability=stability, confidence=[1.0] * 3
    )
    generator = torch.Generator().manual_seed(2)
    history: list[Tensor] = []
    stops = 0
    for _ in range(9):
        if torch.rand((), generator=generator) < 0.4:
            batch.argmax = torch.randint(V, (3, 7), generator=generator).to(device)
        mean = [0.75, 1.0][int(torch.rand((), generator=generator) < 0.4)]
        batch.entropy = torch.full((3, 7), mean, device=device)
        batch.state.finished.fill_(False)
        batch.advance()
        for row, count in enumerate(stability):
            rule = StableAndConfident(stability=count, confidence=1.0)
            seen = [torch.full((7,), -1, device=device)] * count + [h[row] for h in history]
            earlier = torch.stack(seen[len(seen) - count :]) if count else torch.empty(0, 7)
            expected = rule(
                batch.argmax[row, None], earlier[None].to(device), batch.entropy[row, None]
            )
            assert bool(batch.state.finished[row]) == bool(expected)
            stops += bool(expected)
        history.append(batch.argmax)
        if memory:
            assert torch.equal(batch.state.earlier[:, -1], batch.argmax)
    assert 0 < stops < 27


def test_the_last_step_finishes(device: torch.device) -> None:
    batch = Batch(length=5, memory=1, device=device)
    batch.policy.steps[:] = torch.tensor([1, 2, 3])
    seen = []
    for _ in range(3):
        batch.advance()
        seen.append(batch.state.finished.tolist())
    assert seen == [[True, False, False], [True, True, False], [True] * 3]


def test_a_finished_row_never_changes_again(device: torch.device) -> None:
    batch = Batch(length=5, memory=2, device=device)
    batch.policy.steps[:] = torch.tensor([1, 9, 9])
    batch.advance()
    kept = [tensor.clone() for tensor in batch.state]
    batch.argmax, batch.sampled = batch.argmax + 1, batch.sampled + 1
    accepted = batch.advance()
    assert not accepted[0].any()
    assert accepted[1:].any(-1).all()
    for now, then in zip(batch.state, kept, strict=True):
        assert torch.equal(now[0], then[0])
    assert (batch.state.earlier[1:] != kept[1][1:]).any(-1).all()


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    together = Batch(length=9, memory=1, device=device)
    alone = Batch(length=9, memory=1, device=device)
    row = slice(2, 3)
    for name in ("seeds", "canvas", "entropy", "argmax", "sampled"):
        setattr(alone, name, getattr(alone, name)[row])
    alone.state = RowState(*(tensor[row].contiguous() for tensor in alone.state))
    alone.policy = RowPolicy(*(tensor[row] for tensor in alone.policy))
    assert torch.equal(alone.advance(), together.advance()[row])
    for one, all_ in zip(alone.state, together.state, strict=True):
        assert torch.equal(one, all_[row])


class Kernels:
    """`read` and `step` of the loop, made of the three kernels; the network below is torch's."""

    def __init__(self, network: Network, cache: KVCache, seeds: Tensor, policy: RowPolicy) -> None:
        self.network, self.cache, self.seeds, self.policy = network, cache, seeds, policy
        self.canvas = torch.full((len(seeds),), 3, device=seeds.device)

    def step(
        self, state: RowState, soft: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Entropies (B, L), which are accepted (B, L), and the soft embedding (B, L, M)."""
        batch, length = state.tokens.shape
        config, embedding = self.network.config.text, self.network.embed.weight
        hidden = self.network.denoise_hidden(state.tokens, cache=self.cache, soft=soft)
        uniform = draw_uniforms(
            self.seeds, self.canvas, state.step, stream=Stream.SAMPLE, length=length
        )
        out = head(
            hidden.flatten(0, 1).contiguous(),
            embedding,
            cap=config.final_logit_softcapping,
            temperature=torch.full_like(uniform.flatten(), temperature),
            uniform=uniform.flatten(),
        )
        argmax, sampled, entropy = (
            t.view(batch, length) for t in (out.argmax, out.sampled, out.entropy)
        )
        accepted = advance(
            state, self.policy, argmax=argmax, entropy=entropy, sampled=sampled,
            seeds=self.seeds, canvas=self.canvas, stream=Stream.RENOISE_TOKEN,
            vocab_size=len(embedding),
        )  # fmt: skip
        scale = float(torch.tensor(config.hidden_size**0.5, dtype=self.network.dtype))
        soft = soft_embed(out.logits, out.log_sum, embedding, scale=scale)
        return entropy, accepted, soft.view(batch, length, -1)


def test_whole_steps_are_the_loops(
    make_network: Callable[..., Network], device: torch.device
) -> None:
    """Three steps of a small network in float32: every token and decision, and what is not an
    integer up to rounding. A token could differ only if its uniform fell within some 1e-6 of a
    border of its distribution, or a sum of entropies so near its bound: 30 draws, none does."""
    length, steps = 5, 3
    network = make_network(vision=False).to(device)
    generator = torch.Generator().manual_seed(1)
    cache = network.new_cache(batch_size=2)
    network.encode(torch.randint(96, (2, 7), generator=generator).to(device), cache=cache)
    positions = torch.arange(7, 7 + length, device=device).expand(2, -1)
    denoiser = NetworkDenoiser(network, cache, positions)
    seeds = split_seeds([11, 12], device)
    draws = SeededDraws(seeds, length=length, vocab_size=96, device=device)
    policy = Policy(
        steps=steps,
        temperature=LinearTemperature(start=0.8, end=0.4),
        accept=EntropyBound(bound=6.0),
        stop=StableAndConfident(stability=1, confidence=0.005),
    )
    theirs = CanvasState(
        rows=torch.arange(2, device=device),
        tokens=draws.initial(3),
        soft=None,
        earlier=torch.full((2, 1, length), -1, device=device),
        step=0,
    )
    kernels = Kernels(
        network,
        cache,
        seeds,
        RowPolicy(
            steps=torch.full((2,), steps, device=device),
            bound=torch.full((2,), 6.0, device=device),
            stability=torch.ones(2, dtype=torch.int64, device=device),
            confidence=torch.full((2,), 0.005, device=device),
        ),
    )
    ours, soft = begin(theirs.tokens.clone(), memory=1), None
    seen = set()
    for at in range(steps):
        temperature = policy.temperature(at, steps)
        entropy, accepted, soft = kernels.step(ours, soft, temperature)
        theirs, output = step(theirs, denoiser, draws, policy, canvas=3)
        # As much as two paths through the network's product and softmax may differ in float32.
        torch.testing.assert_close(entropy, output.entropy, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(soft, theirs.soft, rtol=1e-5, atol=1e-5)
        assert torch.equal(accepted, output.accepted)
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.earlier, theirs.earlier)
        assert torch.equal(ours.finished, output.finished)
        seen |= set(accepted.flatten().tolist())
    assert seen == {True, False}
    assert ours.finished.all()

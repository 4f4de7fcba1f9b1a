"""The whole objective against a plain rewriting of it in float64, value and every gradient."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gesso.diffusion.draws import invert_cumulative
from gesso.diffusion.loop import CanvasState, Policy, step
from gesso.diffusion.noise import corrupt, slip
from gesso.diffusion.sampler import EntropyBound
from gesso.diffusion.schedule import LinearTemperature
from gesso.diffusion.stopping import NeverEarly
from gesso.generation.denoiser import NetworkDenoiser
from gesso.model.lora import LoraConfig, add_adapter
from gesso.model.network import Network
from gesso.training.config import ObjectiveConfig
from gesso.training.data import Batch, collate
from gesso.training.objective import CanvasNoise, draw_noise, training_loss
from gesso.training.sources import Row

VOCAB, L, FILL, SEED = 96, 5, 1, 2
# Prompts below and above the window of 6; answers of one, three and two canvases.
ROWS = [
    Row((2, 5, 6), (40, 41, 16)),
    Row(tuple(range(20, 29)), (*range(50, 62), 16)),
    Row((2, 30, 30, 31, 9, 8, 7, 6, 5, 4, 33, 34), (60, 61, 62, 63, 64, 65, 66, 67, 68, 16)),
]
BATCH = collate(ROWS, canvas_length=L, fill_id=FILL)


def noise_of(seed: int = SEED, *, draws: int = 1, batch: Batch = BATCH) -> list[CanvasNoise]:
    generator = torch.Generator().manual_seed(seed)
    return [
        draw_noise(len(batch.ids), length=L, vocab_size=VOCAB, generator=generator)
        for _ in range(draws)
    ]


class Plain:
    """The network row by row and head by head, from the spec, on float64 weights."""

    def __init__(self, network: Network) -> None:
        self.text = network.config.text
        self.w = {
            name: tensor.detach().double().clone().requires_grad_()
            for name, tensor in network.state_dict().items()
        }

    def rms(self, x: Tensor, name: str | None = None) -> Tensor:
        y = x / (x.square().mean(-1, keepdim=True) + self.text.rms_norm_eps).sqrt()
        return y if name is None else y * self.w[name + ".weight"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[name + ".weight"].T

    def mlp(self, x: Tensor, name: str) -> Tensor:
        gate = torch.nn.functional.gelu(self.linear(x, name + ".gate"), approximate="tanh")
        return self.linear(gate * self.linear(x, name + ".up"), name + ".down")

    def turn(self, x: Tensor, positions: Tensor, *, full: bool) -> Tensor:
        """x (n, H, D)."""
        rope = self.text.full_rope if full else self.text.sliding_rope
        half = x.shape[-1] // 2
        # Frequencies are float32 constants, angles and all that follows are not.
        exponent = torch.arange(half, dtype=torch.float32) * 2 / x.shape[-1]
        frequency = (1.0 / rope.theta**exponent).double()
        frequency[int(rope.partial * half) :] = 0
        angle = (positions.double()[:, None] * frequency)[:, None]
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """q (n, H, D), k and v (S, K, D), seen (n, S)."""
        heads = []
        for head in range(q.shape[1]):
            group = head // (q.shape[1] // k.shape[1])
            scores = (q[:, head] @ k[:, group].T).masked_fill(~seen, -torch.inf)
            heads.append(scores.softmax(-1) @ v[:, group])
        return torch.cat(heads, -1)

    def moe(self, x: Tensor, at: str) -> Tensor:
        scaled = self.rms(x) * self.w[at + ".router.scale"] * x.shape[-1] ** -0.5
        probabilities = self.linear(scaled, at + ".router.proj").softmax(-1)
        inputs, rows = self.rms(x, at + ".moe_norm"), []
        for token in range(len(x)):
            best = probabilities[token].argsort(descending=True)[: self.text.top_k_experts]
            total, out = probabilities[token][best].sum(), 0.0
            for expert in best.tolist():
                gate, up = (self.w[at + ".experts.gate_up"][expert] @ inputs[token]).chunk(2)
                inner = torch.nn.functional.gelu(gate, approximate="tanh") * up
                share = probabilities[token][expert] / total
                share = share * self.w[at + ".router.per_expert_scale"][expert]
                out = out + share * (self.w[at + ".experts.down"][expert] @ inner)
            rows.append(out)
        return torch.stack(rows)

    def stack(self, x: Tensor, positions: Tensor, old: list | None, start: int) -> tuple:
        """Causal without old keys and values; else a canvas that begins at `start`."""
        kept = []
        for layer in range(self.text.num_layers):
            at, full = f"layers.{layer}", self.text.is_full(layer)
            h, groups = self.rms(x, at + ".attention_norm"), self.text.heads(layer)[0]
            q = self.linear(h, at + ".attention.q").view(len(x), self.text.num_attention_heads, -1)
            raw = self.linear(h, at + ".attention.k").view(len(x), groups, -1)
            v = raw if full else self.linear(h, at + ".attention.v").view_as(raw)
            q = self.turn(self.rms(q, at + ".attention.q_norm"), positions, full=full)
            k = self.turn(self.rms(raw, at + ".attention.k_norm"), positions, full=full)
            v = self.rms(v)
            column, window = torch.arange(len(x)), self.text.sliding_window
            if old is None:
                seen = column <= column[:, None]
                if not full:
                    seen = seen & (column > column[:, None] - window)
            else:
                first = 0 if full else max(0, start - window + 1)
                k = torch.cat((old[layer][0][first:start], k))
                v = torch.cat((old[layer][1][first:start], v))
                seen = torch.ones(len(x), len(k), dtype=torch.bool)
            kept.append((k, v))
            mixed = self.linear(self.attend(q, k, v, seen), at + ".attention.o")
            x = x + self.rms(mixed, at + ".post_attention_norm")
            dense = self.mlp(self.rms(x, at + ".mlp_norm"), at + ".mlp")
            both = self.rms(dense, at + ".post_mlp_norm")
            both = both + self.rms(self.moe(x, at), at + ".post_moe_norm")
            x = x + self.rms(both, at + ".post_norm")
            x = x * self.w[f"{at}.{'encode' if old is None else 'denoise'}_scalar"]
        return self.rms(x, "norm"), kept

    def embed(self, ids: Tensor) -> Tensor:
        return self.w["embed.weight"][ids] * self.text.hidden_size**0.5

    def logits(self, hidden: Tensor) -> Tensor:
        cap = self.text.final_logit_softcapping
        return cap * torch.tanh(hidden @ self.w["embed.weight"].T / cap)

    def encode(self, ids: Tensor) -> tuple:
        return self.stack(self.embed(ids), torch.arange(len(ids)), None, 0)

    def denoise(self, canvas: Tensor, soft: Tensor | None, old: list, start: int) -> Tensor:
        x = self.embed(canvas)
        if soft is not None:
            at = "self_conditioning"
            x = x + self.mlp(self.rms(soft, at + ".pre_norm"), at + ".mlp")
        return self.stack(self.rms(x), torch.arange(start, start + L), old, start)[0]


def naive_loss(plain: Plain, config: ObjectiveConfig) -> tuple[Tensor, Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(SEED)
    rand = torch.rand(len(ROWS), generator=generator)
    uniform = torch.rand(len(ROWS), generator=generator).double()
    redraw = torch.rand(len(ROWS), L, generator=generator).double()
    noise = torch.randint(VOCAB, (len(ROWS), L), generator=generator)
    coin = torch.rand(len(ROWS), generator=generator)
    denoise, causal, hits = 0.0, 0.0, 0.0
    for row, (prompt, answer) in enumerate(ROWS):
        tokens = torch.tensor(prompt + answer)
        canvases = -(-len(answer) // L)
        hidden, old = plain.encode(tokens)
        scores = plain.logits(hidden[:-1]).log_softmax(-1)
        if not config.cache_gradient:
            old = [(k.detach(), v.detach()) for k, v in old]
        losses = [-scores[i, tokens[i + 1]] for i in range(len(tokens) - 1)]
        causal = causal + sum(losses) / len(losses) / len(ROWS)
        whole = torch.cat((tokens, torch.full((canvases * L - len(answer),), FILL)))
        start = len(prompt) + int(rand[row] * canvases) * L
        clean = whole[start : start + L]
        level = config.min_level + (1 - 2 * config.min_level) * float(uniform[row])
        noisy = torch.where(redraw[row] < level, noise[row], clean)
        soft = None
        if coin[row] < config.self_conditioning:
            with torch.no_grad():
                first = plain.logits(plain.denoise(noisy, None, old, start)).softmax(-1)
                soft = first @ plain.w["embed.weight"] * plain.text.hidden_size**0.5
        scores = plain.logits(plain.denoise(noisy, soft, old, start))
        ends = len(prompt) + len(answer) - start  # the fill begins there
        weights = [1.0 if place < ends else config.fill_weight for place in range(L)]
        for place in range(L):
            z = scores[place]
            if config.leave_one_out:
                # The posterior of x0: what the others say, times how likely it shows as noisy.
                likelihood = torch.full((VOCAB,), level / VOCAB, dtype=torch.float64)
                likelihood[noisy[place]] += 1 - level
                z = z + likelihood.log()
            share = weights[place] / sum(weights) / len(ROWS)
            denoise = denoise - share * z.log_softmax(-1)[clean[place]]
            hits += float(z.argmax() == clean[place]) / L / len(ROWS)
    return denoise + config.causal_weight * causal, denoise, causal, hits


@pytest.fixture
def network(make_network: Callable[..., Network]) -> Network:
    return make_network(vision=False).double().requires_grad_(True)


CONFIGS = [
    ObjectiveConfig(),
    ObjectiveConfig(causal_weight=0.0, self_conditioning=0.0, leave_one_out=True),
    ObjectiveConfig(cache_gradient=False),
    ObjectiveConfig(fill_weight=0.25),
    ObjectiveConfig(
        causal_weight=0.3,
        self_conditioning=1.0,
        leave_one_out=True,
        min_level=0.2,
        fill_weight=0.0,
    ),
]


@pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=[
        "published",
        "denoising alone",
        "no gradient through the cache",
        "light fill",
        "all options",
    ],
)
def test_value_and_gradients(network: Network, config: ObjectiveConfig) -> None:
    ours = training_loss(network, BATCH, config, noise_of())
    ours.total.backward()
    plain = Plain(network)
    theirs = naive_loss(plain, config)
    theirs[0].backward()
    # Sums of some thousand float64 products; the share of hits is a float32 mean.
    for mine, exact in zip(ours[:3], theirs[:3], strict=True):
        assert float(mine.detach()) == pytest.approx(float(exact.detach()), rel=1e-10)
    assert float(ours.denoise_hits) == pytest.approx(theirs[3], rel=1e-6)
    for name, parameter in network.named_parameters():
        exact = plain.w[name].grad
        if exact is None:
            assert parameter.grad is None or not parameter.grad.any(), name
            continue
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, exact, rtol=1e-7, atol=1e-11, msg=name)


def test_the_draws_reach_every_kind_of_row() -> None:
    """What the comparison above covers: a later canvas, a coin of each side, noise and none."""
    (noise,) = noise_of()
    assert (noise.canvas * BATCH.canvases).long().tolist() == [0, 1, 1]
    assert 0 < (noise.self_conditioning < 0.5).sum() < 3


@pytest.mark.parametrize("canvas", [0, 1, 2])
def test_no_leakage(network: Network, canvas: int) -> None:
    """Clean tokens at and behind the canvas's start change nothing that the denoiser sees."""
    row = 1
    start = len(ROWS[row].prompt) + canvas * L
    noisy = torch.tensor([[7, 8, 9, 10, 11]])

    def hidden(ids: Tensor) -> Tensor:
        cache = network.new_cache(batch_size=1, trim=False)
        network.encode(ids, cache=cache)
        return network.denoise_hidden(
            noisy, cache=cache, positions=torch.arange(start, start + L)[None],
            starts=torch.tensor([start]),
        )  # fmt: skip

    ids = BATCH.ids[row : row + 1]
    before = hidden(ids)
    changed = ids.clone()
    changed[:, start:] = (changed[:, start:] + 17) % VOCAB
    assert torch.equal(before, hidden(changed))
    near = ids.clone()
    near[:, start - 1] += 1
    assert not torch.equal(before, hidden(near))
    # As at inference: a cache that ends where the canvas starts, trimmed to the window.
    cache = network.new_cache(batch_size=1)
    network.encode(ids[:, :start], cache=cache)
    torch.testing.assert_close(
        before, network.denoise_hidden(noisy, cache=cache), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("size", [1, 2])
def test_the_parts_of_a_batch_add_up(network: Network, size: int) -> None:
    """Losses and gradients of parts, weighted by their rows, are those of the whole batch."""
    config = ObjectiveConfig(draws=2, ramp=0.5, unroll=0.5)
    noise = noise_of(draws=2)

    def gradients(parts: list[slice]) -> tuple[list[float], dict[str, Tensor]]:
        network.zero_grad()
        sums = torch.zeros(4, dtype=torch.float64)
        for part in parts:
            share = len(ROWS[part]) / len(ROWS)
            pieces = [canvas.rows(part) for canvas in noise]
            losses = training_loss(network, BATCH.rows(part), config, pieces)
            (losses.total * share).backward()
            sums += share * torch.stack([value.detach().double() for value in losses])
        return sums.tolist(), {
            name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None
        }

    whole = gradients([slice(0, 3)])
    parts = gradients([slice(i, min(i + size, 3)) for i in range(0, 3, size)])
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    assert parts[0][:3] == pytest.approx(whole[0][:3], rel=1e-10)
    for name, gradient in whole[1].items():
        torch.testing.assert_close(parts[1][name], gradient, rtol=1e-7, atol=1e-12, msg=name)


def test_the_noise_decides(network: Network) -> None:
    def total(seed: int) -> float:
        return float(training_loss(network, BATCH, CONFIGS[0], noise_of(seed)).total.detach())

    assert total(1) == total(1) != total(2)


def losses(network: Network, **options: object) -> list[float]:
    config = ObjectiveConfig(**options)
    values = training_loss(network, BATCH, config, noise_of(draws=config.draws))
    return [float(value.detach()) for value in values]


def test_several_draws_are_averaged(network: Network) -> None:
    singly = [
        float(training_loss(network, BATCH, CONFIGS[0], [noise]).denoise.detach())
        for noise in noise_of(draws=2)
    ]
    assert singly[0] != singly[1]
    total, denoise, causal, _ = losses(network, draws=2)
    assert denoise == pytest.approx(sum(singly) / 2, rel=1e-10)
    assert causal == losses(network)[2]
    assert total == pytest.approx(denoise + causal, rel=1e-10)


def test_the_causal_loss_of_the_answer_alone(network: Network) -> None:
    expected = 0.0
    for prompt, answer in ROWS:
        tokens = torch.tensor([prompt + answer])
        hidden = network.encode(tokens, cache=network.new_cache(batch_size=1))
        scores = network.head(hidden[0, len(prompt) - 1 : -1]).log_softmax(-1)
        picked = scores[torch.arange(len(answer)), torch.tensor(answer)]
        expected -= float(picked.mean().detach()) / len(ROWS)
    assert losses(network, causal_prompt=False)[2] == pytest.approx(expected, rel=1e-9)


def test_without_canvases_the_causal_loss_is_all(network: Network) -> None:
    config = ObjectiveConfig(draws=0, causal_weight=0.5)
    alone = training_loss(network, BATCH, config, [])
    both = training_loss(network, BATCH, config, noise_of())
    assert alone.causal == both.causal
    assert alone.total == 0.5 * alone.causal
    assert alone.denoise == alone.denoise_hits == 0
    assert both.total == both.denoise + alone.total


def test_ramps_change_the_noise_alone(network: Network) -> None:
    even, ramped = losses(network), losses(network, ramp=1.0)
    assert even[2] == ramped[2]
    assert even[1] != ramped[1]
    assert all(value == value for value in losses(network, ramp=1.0, leave_one_out=True))


def test_slips_change_what_is_seen_and_not_what_is_asked(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise the canvas is the slipped answer."""
    seen: list[Tensor] = []
    hidden = network.denoise_hidden

    def denoise_hidden(canvas: Tensor, **keys: object) -> Tensor:
        seen.append(canvas)
        return hidden(canvas, **keys)

    monkeypatch.setattr(network, "denoise_hidden", denoise_hidden)
    first, none = torch.zeros(len(ROWS)), torch.ones(len(ROWS))
    noise = noise_of()[0]._replace(level=first, canvas=first, self_conditioning=none)
    clean = torch.tensor([[*answer, *[FILL] * L][:L] for _, answer in ROWS])
    values = []
    for share in (0.0, 1.0):
        config = ObjectiveConfig(min_level=0.0, slip=share)
        values.append(training_loss(network, BATCH, config, [noise]))
        assert torch.equal(seen.pop(), slip(clean, noise.slip, share=share))
    assert not torch.equal(clean, slip(clean, noise.slip, share=1.0))
    assert values[0].causal == values[1].causal
    assert values[0].denoise != values[1].denoise


def seen_canvases(
    network: Network, monkeypatch: pytest.MonkeyPatch, logits: Tensor, **options: object
) -> tuple[Tensor, Tensor]:
    """What the first and the scored pass looked at, when the first one believes `logits` (V,)."""
    first: list[Tensor] = []
    scored: list[Tensor] = []
    hidden = network.denoise_hidden

    def denoise(canvas: Tensor, **_: object) -> Tensor:
        first.append(canvas)
        return logits.expand(*canvas.shape, VOCAB)

    def denoise_hidden(canvas: Tensor, **keys: object) -> Tensor:
        scored.append(canvas)
        return hidden(canvas, **keys)

    monkeypatch.setattr(network, "denoise", denoise)
    monkeypatch.setattr(network, "denoise_hidden", denoise_hidden)
    losses(network, self_conditioning=1.0, **options)
    return first[0], scored[0]


def test_unrolling_shows_the_model_its_own_canvas(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = 50.0 * torch.nn.functional.one_hot(torch.tensor(77), VOCAB).float()
    first, scored = seen_canvases(network, monkeypatch, sure, unroll=1.0)
    assert (first != 77).any()
    assert (scored == 77).all()
    first, scored = seen_canvases(network, monkeypatch, sure, unroll=0.0)
    assert torch.equal(first, scored)


def test_unrolling_renoises_what_the_model_is_unsure_of(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ids equally likely: 0.69 nats a position, so a bound of 1 lets two of five positions
    through, and the other three are anything."""
    two = torch.full((VOCAB,), -1e9)
    two[[70, 71]] = 0.0
    _, scored = seen_canvases(network, monkeypatch, two, unroll=1.0, unroll_bounds=(1.0, 1.0))
    own = (scored == 70) | (scored == 71)
    assert (own.sum(1) >= 2).all()
    assert not own.all()
    _, scored = seen_canvases(network, monkeypatch, two, unroll=1.0, unroll_bounds=(9.0, 9.0))
    assert ((scored == 70) | (scored == 71)).all()
    assert len(scored.unique()) == 2


@pytest.mark.parametrize("lora", [False, True])
def test_activation_checkpointing_changes_memory_alone(network: Network, lora: bool) -> None:
    """The denoising loss alone: what reaches the encoder comes through the cache."""
    if lora:
        add_adapter(network, LoraConfig(rank=2), seed=1)
    config = ObjectiveConfig(causal_weight=0.0, draws=2, unroll=0.5, unroll_steps=2)
    noise = [
        draw_noise(len(ROWS), length=L, vocab_size=VOCAB, generator=torch.manual_seed(3), steps=2)
        for _ in range(2)
    ]
    seen = []
    for on in (False, True):
        network.checkpoint_activations = on
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = training_loss(network, BATCH, config, noise).total
        held = sum(size for address, size in saved.items() if address not in weights)
        loss.backward()
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        network.zero_grad()
        seen.append((loss.detach(), gradients, held))
    (loss, gradients, held), (again, recomputed, less) = seen
    assert torch.equal(loss, again)
    assert gradients.keys() == recomputed.keys()
    assert any(".attention.k." in name and g.any() for name, g in gradients.items())
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name
    assert less < held / 3


class RecordedDraws:
    """A row's draws of the objective, as those of the generation loop."""

    def __init__(self, noise: CanvasNoise, row: int) -> None:
        self.noise, self.row = noise, row

    def initial(self, canvas: int) -> Tensor:
        raise AssertionError("the first canvas is given")

    def sample(self, probabilities: Tensor, *, canvas: int, step: int) -> Tensor:
        return invert_cumulative(probabilities, self.noise.sample[self.row, step][None])

    def renoise(self, *, canvas: int, step: int) -> Tensor:
        return self.noise.renoise[self.row, step][None]

    def select(self, rows: Tensor) -> "RecordedDraws":
        return self


@torch.no_grad()
def test_unrolled_canvases_are_those_of_the_generation_loop(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that run for one, two and four steps see what `loop.step` makes of them alone."""
    seen: list[tuple[Tensor, Tensor]] = []
    hidden = network.denoise_hidden

    def denoise_hidden(canvas: Tensor, *, soft: Tensor | None = None, **keys: object) -> Tensor:
        if soft is not None and len(canvas) == len(ROWS):
            seen.append((canvas, soft))
        return hidden(canvas, soft=soft, **keys)

    config = ObjectiveConfig(
        self_conditioning=1.0, unroll=1.0, unroll_steps=4, unroll_temperatures=(0.7, 0.7)
    )
    config = replace(config, unroll_bounds=(8.0, 8.0))
    noise = draw_noise(
        len(ROWS), length=L, vocab_size=VOCAB, generator=torch.manual_seed(5), steps=4
    )
    counts = torch.tensor([0.1, 0.3, 0.9])  # of 4 steps
    noise = noise._replace(unroll=noise.unroll.index_copy(1, torch.tensor([1]), counts[:, None]))
    with monkeypatch.context() as patch:
        patch.setattr(network, "denoise_hidden", denoise_hidden)
        training_loss(network, BATCH, config, [noise])
    canvases, softs = seen[-1]
    for row, (prompt, answer) in enumerate(ROWS):
        index = int(noise.canvas[row] * -(-len(answer) // L))
        cache = network.new_cache(batch_size=1)
        network.encode(torch.tensor([(prompt + answer)[: len(prompt) + index * L]]), cache=cache)
        clean = torch.tensor([[*answer, *[FILL] * L][index * L : (index + 1) * L]])
        one = slice(row, row + 1)
        tokens = corrupt(
            clean, noise.level[one], uniform=noise.redraw[one], noise=noise.tokens[one]
        )
        state = CanvasState(torch.tensor([0]), tokens, None, tokens.new_empty(1, 0, L), 0)
        policy = Policy(
            steps=99,
            temperature=LinearTemperature(start=0.7, end=0.7),
            accept=EntropyBound(bound=8.0),
            stop=NeverEarly(),
        )
        for _ in range((1, 2, 4)[row]):
            draws = RecordedDraws(noise, row)
            denoiser = NetworkDenoiser(network, cache, (cache.length + torch.arange(L))[None])
            state, _ = step(state, denoiser, draws, policy, canvas=0)
        assert torch.equal(canvases[one], state.tokens)
        torch.testing.assert_close(softs[one], state.soft, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (dict(unroll=2.0), "unroll: got 2.0"),
        (dict(unroll_steps=0), "unroll_steps: got 0"),
        (dict(unroll_temperatures=(0.8, 0.4)), r"unroll_temperatures: got \(0.8, 0.4\)"),
        (dict(unroll_bounds=(0.0, 1.0)), r"unroll_bounds: got \(0.0, 1.0\)"),
        (dict(unroll=0.5, leave_one_out=True), "unroll and leave_one_out: got both"),
        (dict(slip=0.5, leave_one_out=True), "slip and leave_one_out: got both"),
        (dict(self_conditioning=1.5), "self_conditioning: got 1.5"),
        (dict(self_conditioning=-0.1), "self_conditioning"),
        (dict(causal_weight=-1.0), "causal_weight: got -1.0"),
        (dict(min_level=0.5), "min_level: got 0.5"),
        (dict(ramp=-0.5), "ramp: got -0.5"),
        (dict(slip=1.5), "slip: got 1.5"),
        (dict(fill_weight=1.5), "fill_weight: got 1.5"),
        (dict(draws=-1), "draws: got -1"),
        (dict(draws=0, causal_weight=0.0), "draws and causal_weight: got 0 for both"),
    ],
)
def test_bad_config(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**keys)

"""The inner loop with a fake denoiser: no network anywhere."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gesso.diffusion.draws import SeededDraws
from gesso.diffusion.loop import Policy, Reading, StepOutput, denoise_canvas
from gesso.diffusion.sampler import EntropyBound, believe
from gesso.diffusion.schedule import LinearTemperature
from gesso.diffusion.stopping import NeverEarly, StableAndConfident

L, V, STEPS = 6, 11, 8
POLICY = Policy(
    steps=STEPS,
    temperature=LinearTemperature(start=0.8, end=0.4),
    accept=EntropyBound(bound=0.5),
    stop=StableAndConfident(stability=1, confidence=0.05),
)


class Fake:
    """Logits are a row's own function of what it sees; a row is sure from its step `sure` on."""

    def __init__(self, sure: list[int], *, calls: list | None = None, at: Tensor | None = None):
        self.sure, self.calls = torch.tensor(sure), [] if calls is None else calls
        self.at = torch.zeros_like(self.sure) if at is None else at

    def __call__(self, canvas: Tensor, soft: Tensor | None) -> Tensor:
        self.calls.append((canvas, soft))
        seen = canvas if soft is None else canvas + soft.argmax(-1)
        wild = torch.sin(seen[..., None] * 1.7 + torch.arange(V) * 2.3 + self.at[:, None, None])
        fixed = 40.0 * torch.nn.functional.one_hot(torch.arange(L) % V, V)
        logits = torch.where((self.at >= self.sure)[:, None, None], fixed, 3 * wild)
        self.at = self.at + 1
        return logits

    def soft_embed(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def read(self, tokens: Tensor, soft: Tensor | None, temperature: float | Tensor) -> Reading:
        logits = self(tokens, soft) / temperature
        return Reading(believe(logits), self.soft_embed(logits))

    def select(self, rows: Tensor) -> "Fake":
        return Fake(self.sure[rows].tolist(), calls=self.calls, at=self.at[rows])


def run(sure: list[int], seeds: list[int] | None = None, **keys) -> tuple[list[StepOutput], Fake]:
    fake = keys.pop("fake", None) or Fake(sure)
    policy = keys.pop("policy", POLICY)
    seeds = list(range(len(sure))) if seeds is None else seeds
    draws = SeededDraws(seeds, length=L, vocab_size=V, device=torch.device("cpu"))
    return list(denoise_canvas(fake, draws, policy, canvas=keys.pop("canvas", 0), **keys)), fake


def rows_of(outputs: list[StepOutput], row: int) -> list[tuple]:
    """All that a row saw, as plain values."""
    return [
        (o.step, o.argmax[i].tolist(), o.entropy[i].tolist(), o.accepted[i].tolist(),
         bool(o.finished[i]))
        for o in outputs
        for i, r in enumerate(o.rows.tolist())
        if r == row
    ]  # fmt: skip


def test_a_confident_denoiser_ends_after_two_steps() -> None:
    outputs, fake = run([0])
    assert [bool(o.finished[0]) for o in outputs] == [False, True]
    assert outputs[-1].argmax[0].tolist() == list(range(L))
    assert len(fake.calls) == 2


@pytest.mark.parametrize("stability", [0, 1, 2, 3])
def test_k_plus_one_steps(stability: int) -> None:
    stop = StableAndConfident(stability=stability, confidence=0.05)
    outputs, _ = run([0], policy=replace(POLICY, stop=stop))
    assert len(outputs) == stability + 1


def test_the_cap() -> None:
    outputs, fake = run([99, 99])
    assert [o.step for o in outputs] == list(range(STEPS))
    assert [o.finished.tolist() for o in outputs] == [[False] * 2] * (STEPS - 1) + [[True] * 2]
    assert len(fake.calls) == STEPS
    never, _ = run([0], policy=replace(POLICY, stop=NeverEarly()))
    assert len(never) == STEPS


def test_one_step() -> None:
    outputs, _ = run([99], policy=replace(POLICY, steps=1))
    assert [o.finished.tolist() for o in outputs] == [[True]]


def test_finished_rows_never_reappear() -> None:
    """And the denoiser gets smaller batches."""
    outputs, fake = run([3, 0, 99, 1])
    last: dict[int, int] = {}
    for output in outputs:
        for row, done in zip(output.rows.tolist(), output.finished.tolist(), strict=True):
            assert row not in last
            if done:
                last[row] = output.step
    assert last == {0: 4, 1: 1, 2: STEPS - 1, 3: 2}
    assert [len(canvas) for canvas, _ in fake.calls] == [4, 4, 3, 2, 2, 1, 1, 1]


def test_a_rows_result_does_not_depend_on_its_batch_mates() -> None:
    sure, seeds = [3, 0, 99, 1], [7, 8, 2**63, 10]
    together, _ = run(sure, seeds)
    for row in range(4):
        alone, _ = run([sure[row]], [seeds[row]])
        assert rows_of(together, row) == rows_of(alone, 0)
    pair, _ = run([99, 1], [seeds[2], seeds[3]])
    assert rows_of(pair, 0) == rows_of(together, 2)


def test_soft_is_none_at_first_and_what_soft_embed_gave_afterwards() -> None:
    given: list[Tensor] = []

    class Watched(Fake):
        def soft_embed(self, logits: Tensor) -> Tensor:
            given.append(logits.softmax(-1))
            return given[-1]

    for canvas in (0, 1):
        given.clear()
        _, fake = run([99], fake=Watched([99]), canvas=canvas)
        assert fake.calls[0][1] is None
        assert len(given) == STEPS  # a look at the canvas is one piece of work; none reads the last
        assert all(soft is kept for (_, soft), kept in zip(fake.calls[1:], given[:-1], strict=True))


def test_soft_follows_its_row() -> None:
    """When other rows have left, a row sees its own soft embedding."""
    _, fake = run([0, 99], [3, 4])
    _, alone = run([99], [4])
    for (_, soft), (_, expected) in zip(fake.calls[1:], alone.calls[1:], strict=True):
        assert torch.equal(soft[-1], expected[0])


def test_the_temperature_applied_is_the_schedules() -> None:
    """Entropy, and what soft_embed reads, are those of logits over the temperature."""

    class Flat(Fake):
        def __call__(self, canvas: Tensor, soft: Tensor | None) -> Tensor:
            return torch.linspace(0, 2, V).expand(*canvas.shape, V)

        def soft_embed(self, logits: Tensor) -> Tensor:
            tempered.append(logits[0, 0])
            return logits

    tempered: list[Tensor] = []
    outputs, _ = run([99], fake=Flat([99]))
    for step, output in enumerate(outputs):
        temperature = 0.4 + 0.4 * (STEPS - step) / STEPS
        p = (torch.linspace(0, 2, V).double() / temperature).softmax(-1)
        assert output.entropy[0, 0].item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
        if step < STEPS - 1:
            # One rounding of the temperature, one of the quotient.
            expected = torch.linspace(0, 2, V) / temperature
            torch.testing.assert_close(tempered[step], expected, rtol=3e-7, atol=0)


def test_accepted_positions_keep_their_sample_and_the_others_are_noise() -> None:
    _, fake = run([99], [5])
    draws = SeededDraws([5], length=L, vocab_size=V, device=torch.device("cpu"))
    assert torch.equal(fake.calls[0][0], draws.initial(0))
    outputs, _ = run([99], [5])
    replay = Fake([99])
    soft = None
    for step, output in enumerate(outputs[:-1]):
        logits = replay(fake.calls[step][0], soft) / POLICY.temperature(step, STEPS)
        sampled = draws.sample(logits.softmax(-1), canvas=0, step=step)
        noise = draws.renoise(canvas=0, step=step)
        expected = torch.where(output.accepted, sampled, noise)
        assert torch.equal(fake.calls[step + 1][0], expected)
        assert output.accepted.any()
        soft = replay.soft_embed(logits)


def test_canvases_have_draws_of_their_own() -> None:
    _, first = run([99], canvas=0)
    _, second = run([99], canvas=1)
    assert not torch.equal(first.calls[0][0], second.calls[0][0])


def test_interrupt_finishes_rows_as_they_stand() -> None:
    asked: list[list[int]] = []

    def interrupt(rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return (rows == 1) & (len(asked) == 2)

    outputs, _ = run([99, 99, 0], interrupt=interrupt)
    assert asked == [[0, 1, 2], [0, 1, 2]] + [[0]] * (STEPS - 2)
    whole, _ = run([99, 99, 0])
    assert rows_of(outputs, 0) == rows_of(whole, 0)
    assert [r[:4] for r in rows_of(outputs, 1)] == [r[:4] for r in rows_of(whole, 1)][:2]
    assert rows_of(outputs, 1)[-1][4]


def test_interrupting_all_ends_after_one_step() -> None:
    outputs, fake = run([99, 99], interrupt=lambda rows: torch.ones_like(rows, dtype=torch.bool))
    assert len(outputs) == len(fake.calls) == 1

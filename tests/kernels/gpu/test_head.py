"""The head's kernels: what they say of a row against float64, and the token that they draw."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gesso.diffusion.draws import invert_cumulative
from gesso.diffusion.sampler import believe
from gesso.kernels.gpu import head as module
from gesso.kernels.gpu.head import HeadOutput, head

CAP = 30.0
BELOW_ONE = 1.0 - 2.0**-24
# Rows, ids, width: one of each; less than a tile; whole tiles; a little more than tiles.
SHAPES = [(1, 1, 1), (5, 96, 32), (3, 256, 128), (17, 259, 67)]


class Inputs:
    """Logits whose spread goes from nearly flat to nearly certain over the rows."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device):
        rows, ids, width = shape
        generator = torch.Generator().manual_seed(rows)
        spread = torch.linspace(0.05, 6, rows)[:, None] * width**-0.5
        hidden = spread * torch.randn(rows, width, generator=generator)
        self.hidden = hidden.to(device, dtype)
        self.embedding = torch.randn(ids, width, generator=generator).to(device, dtype)
        self.temperature = torch.linspace(0.4, 1.1, rows).to(device)
        self.uniform = torch.rand(rows, generator=generator).to(device)

    def run(self) -> HeadOutput:
        return head(
            self.hidden,
            self.embedding,
            cap=CAP,
            temperature=self.temperature,
            uniform=self.uniform,
        )

    def logits(self, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """By the definition, from some product of hidden states and embedding."""
        capped = CAP * torch.tanh(product(self.hidden, self.embedding.T) / CAP)
        return capped / self.temperature[:, None].to(capped.dtype)

    def exact(self) -> Tensor:
        return self.logits(lambda x, e: x.double() @ e.double())


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def reachable(exact: Tensor, uniform: Tensor, token: Tensor, gap: float) -> Tensor:
    """Whether each token's interval of the cumulative distribution, widened by the gap, holds the
    uniform."""
    cumulative = exact.softmax(-1).cumsum(-1)
    upper = cumulative.gather(1, token[:, None])[:, 0]
    lower = upper - exact.softmax(-1).gather(1, token[:, None])[:, 0]
    return (lower - gap <= uniform) & (uniform <= upper + gap)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_against_the_definition(
    shape: tuple[int, int, int], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TILE_ROWS", 16)  # so that few rows are more than a tile
    inputs = Inputs(shape, torch.float32, device)
    out = inputs.run()
    logits = inputs.logits(torch.matmul)
    belief = believe(logits)
    # Logits of up to 75 whose product, tanh and quotient each round: some 1e-6 of the largest
    # scale, which is the cap over the lowest temperature.
    close = dict(rtol=1e-6, atol=2e-5)
    torch.testing.assert_close(out.logits, logits, **close)
    torch.testing.assert_close(out.log_sum, logits.logsumexp(-1), **close)
    torch.testing.assert_close(out.entropy, belief.entropy, rtol=1e-5, atol=2e-5)
    assert torch.equal(out.argmax, belief.argmax)
    assert torch.equal(out.sampled, invert_cumulative(belief.probabilities, inputs.uniform))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_is_as_good_as_the_plain_operation(
    shape: tuple[int, int, int], device: torch.device
) -> None:
    inputs = Inputs(shape, torch.bfloat16, device)
    out = inputs.run()
    exact = inputs.exact()
    plain = inputs.logits(lambda x, e: (x @ e).float())
    # A single number may be lucky: half of a bfloat16's step of the values is granted beside.
    step = 2.0**-9
    allowed = 2 * rms(plain.bfloat16() - exact) + (step * rms(exact) if exact.numel() < 99 else 0)
    assert rms(out.logits - exact) <= allowed
    theirs, true = believe(plain).entropy, believe(exact).entropy
    # float32's own error where the plain product happens to be exact.
    assert rms(out.entropy - true) <= 2 * rms(theirs - true) + 1e-5
    # The sum is that of the logits as they are returned.
    torch.testing.assert_close(
        out.log_sum.double(), out.logits.double().logsumexp(-1), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sampled_token_is_where_the_uniform_falls(
    dtype: torch.dtype, device: torch.device
) -> None:
    """A float32 logit is known to some 1e-5 (of 75, after three roundings), and a cumulative
    probability is a sum of such terms' exponentials: it is known to less than 1e-5 of the share
    that still moves. Within that of a border either neighbour is right."""
    inputs = Inputs((17, 259, 67), dtype, device)
    inputs.uniform[:2], inputs.uniform[-2:] = 0, BELOW_ONE
    sampled = inputs.run().sampled
    exact = inputs.exact()
    assert reachable(exact, inputs.uniform, sampled, 1e-5).all()
    # The criterion can fail: in the flat rows, whose ids have some 1 / 259 each, no neighbour does.
    assert not reachable(exact, inputs.uniform, (sampled + 1) % 259, 1e-5)[2:6].any()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("place", [0, 130, 258])
def test_a_certain_row(place: int, device: torch.device) -> None:
    """All but one id have probability 0 in float32: no uniform chooses another."""
    embedding = -torch.ones(259, 1, device=device)
    embedding[place] = 1
    uniform = torch.tensor([0.0, 0.3, BELOW_ONE], device=device)
    hidden = torch.full((3, 1), 2000.0, device=device)
    out = head(
        hidden, embedding, cap=CAP, temperature=torch.full_like(uniform, 0.4), uniform=uniform
    )
    assert out.argmax.tolist() == out.sampled.tolist() == [place] * 3
    assert out.entropy.tolist() == [0.0] * 3
    # exp overflows on the way to a logit of 75, and underflows on the way to one of -75.
    torch.testing.assert_close(out.logits[0], 75 * embedding[:, 0])


def test_equal_logits(device: torch.device) -> None:
    """The lowest id is the argmax, whatever tile the others are in; a uniform is an id."""
    ids = 2 * 259
    embedding = torch.ones(ids, 1, device=device)
    embedding[:7] = 0.5
    uniform = torch.tensor([0.0, 0.25, 0.5, BELOW_ONE], device=device)
    ones = torch.ones(4, device=device)
    out = head(0 * ones[:, None], embedding, cap=CAP, temperature=ones, uniform=uniform)
    assert out.argmax.tolist() == [0] * 4
    assert out.sampled.tolist() == [0, ids // 4, ids // 2, ids - 1]
    torch.testing.assert_close(out.entropy, torch.full_like(ones, ids).log())
    raised = head(ones[:, None], embedding, cap=CAP, temperature=ones, uniform=uniform)
    assert raised.argmax.tolist() == [7] * 4


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    inputs = Inputs((3, 259, 67), torch.float32, device)
    together = inputs.run()
    row = slice(2, 3)
    alone = head(
        inputs.hidden[row],
        inputs.embedding,
        cap=CAP,
        temperature=inputs.temperature[row],
        uniform=inputs.uniform[row],
    )
    for one, all_ in zip(alone, together, strict=True):
        assert torch.equal(one, all_[row])

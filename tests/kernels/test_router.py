import torch

from gesso.kernels.router import choose_experts


def test_by_hand() -> None:
    """The two likeliest of three, three to one; the scale comes after the renormalisation."""
    logits = torch.tensor([[0.0, 3.0, 1.0]]).log()
    logits[0, 0] = -5.0
    index, weight = choose_experts(logits, torch.tensor([9.0, 2.0, 10.0]), 2)
    assert index.tolist() == [[1, 2]]
    torch.testing.assert_close(weight, torch.tensor([[0.75 * 2, 0.25 * 10]]))


def test_weights_are_float32_whatever_the_logits() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    _, weight = choose_experts(logits, torch.ones(5, dtype=torch.bfloat16), 2)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.sum(1), torch.ones(3))

"""Rounding that goes by what a layer reads, and not by its weights alone.

A weight is rounded column by column, and what that changes in the layer's outputs is made up for,
as far as it can be, by the columns that are still to come (GPTQ, arXiv 2210.17323). Which inputs
there are is said by their second moments; those of a trained layer lie near a few directions, so
most of it can be.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Of the mean of the moments' diagonal, added to it: directions that were not read are free to take
# any error, but not all of it.
_DAMPING = 0.01
# So many columns hear of one another's errors at once, all others when these are done.
_BLOCK = 128


def round_with_feedback(
    weight: Tensor, unit: Tensor, nearest: Callable[[Tensor], Tensor], moment: Tensor
) -> Tensor:
    """Values (out, in) of a format, in float32, that times `unit` stand for `weight` (out, in).

    unit: broadcast to the weight's shape, nowhere 0. nearest: elementwise, to values of the format.
    moment: sum over what the layer reads of x x^T (in, in).
    """
    # The inputs that count most come first, when there is most left to make up with.
    order = moment.diagonal().argsort(descending=True, stable=True)
    left = weight.double()[:, order]
    unit = unit.double().expand_as(weight)[:, order]
    factor = _inverse_factor(moment.double()[order][:, order])
    values = torch.empty_like(weight, dtype=torch.float32)
    for start in range(0, len(order), _BLOCK):
        block = range(start, min(start + _BLOCK, len(order)))
        errors = torch.empty_like(left[:, block.start : block.stop])
        for place, column in enumerate(block):
            rounded = nearest((left[:, column] / unit[:, column]).float())
            values[:, order[column]] = rounded
            error = (left[:, column] - rounded * unit[:, column]) / factor[column, column]
            later = slice(column + 1, block.stop)
            left[:, later] -= error[:, None] * factor[column, later]
            errors[:, place] = error
        left[:, block.stop :] -= errors @ factor[block.start : block.stop, block.stop :]
    return values


def _inverse_factor(moment: Tensor) -> Tensor:
    """Upper triangular U with U^T U the inverse of the damped moment; all that is left to say of
    an input when those before it are settled is in its row."""
    damping = _DAMPING * moment.diagonal().mean()
    # Of an expert that read nothing every direction is like another.
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    damped = moment + eye * torch.where(damping > 0, damping, 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)

"""How the tests compare: values to float64 accuracy, gradients in one line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor


def close(actual: Tensor, expected: Tensor | ArrayLike, tolerance: float = 1e-9) -> None:
    """Same dtype, shape and values to `tolerance`, relative plus absolute; a number fits any shape.

    NaN is never equal.
    """
    wanted = torch.full_like(actual, expected) if isinstance(expected, float | int) else expected
    torch.testing.assert_close(actual, torch.as_tensor(wanted), rtol=tolerance, atol=tolerance)


def not_above(lower: Tensor, upper: Tensor, slack: float = 1e-9) -> None:
    """`lower <= upper` for each element, up to rounding."""
    assert bool((lower <= upper + slack * (1 + upper.abs())).all()), (lower, upper)


def gradients(of: Callable[..., Tensor], *at: Tensor) -> tuple[Tensor, ...]:
    """The gradient of the sum of `of(*at)` with respect to each argument; zeros where there is none."""
    leaves = [x.detach().clone().requires_grad_() for x in at]
    total = of(*leaves).sum()
    if not total.requires_grad:
        return tuple(torch.zeros_like(x) for x in at)
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

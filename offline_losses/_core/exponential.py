"""Exponentials that do not overflow or lose their digits, and powers whose derivatives are finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_losses._core.checks import Knob
from offline_losses._core.reduce import clamped, reduce, scalar


def up_to(z: Tensor, max_exponent: Knob) -> tuple[Tensor, Tensor]:
    """The exponent up to its bound, and by how much it lies beyond, where the exponential is a line."""
    bound = scalar(max_exponent, z)
    return torch.where(z > bound, bound, z), torch.where(z > bound, z - bound, 0.0)


def above_tangent(z: Tensor) -> Tensor:
    """$e^z - z - 1$, near zero by its series: the difference has no digits there, and generated code no `expm1`."""
    near = clamped(z, -0.25, 0.25)
    series = torch.ones_like(z)
    for n in range(13, 2, -1):
        series = 1 + near / n * series
    return torch.where(near == z, near.square() / 2 * series, z.exp() - z - 1)


def log_mean_exp(x: Tensor, mask: Tensor | None) -> Tensor:
    """Logarithm of the mean exponential of all existing elements, on each of them; zero if there are none."""
    if not x.numel():
        return x
    existing = x if mask is None else torch.where(mask, x, -torch.inf)
    largest = existing.detach().amax()
    shift = torch.where(largest.isinf(), 0.0, largest)
    mean = reduce((existing - shift).exp(), mask, None, "mean")
    return (torch.where(mean == 0, 1.0, mean).log() + shift).expand_as(x)


def power(x: Tensor, exponent: Knob) -> Tensor:
    """The magnitude to the exponent, over it; at zero, where its second derivative may be infinite, a constant."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x.abs()) ** scalar(exponent, x) / exponent)


def exp_(x: Tensor) -> Tensor:
    """In place, by way of powers of two, which a processor takes a third of the time for."""
    return x.mul_(math.log2(math.e)).exp2_()


def finite(x: Tensor) -> Tensor:
    """Zero for −∞: nothing is subtracted from logits, and nothing multiplied, where there is no class."""
    return torch.where(x == -torch.inf, 0.0, x)

"""An exponential that goes on as a line, and how far it lies above its tangent at zero."""

from __future__ import annotations

import torch
from torch import Tensor

from offline_losses._core.checks import Knob
from offline_losses._core.reduce import scalar


def up_to(z: Tensor, max_exponent: Knob) -> tuple[Tensor, Tensor]:
    """The exponent up to its bound, and by how much it lies beyond, where the exponential is a line."""
    bound = scalar(max_exponent, z)
    return torch.where(z > bound, bound, z), torch.where(z > bound, z - bound, 0.0)


def above_tangent(z: Tensor) -> Tensor:
    """$e^z - z - 1$, near zero by its series: the difference has no digits there, and generated code no `expm1`."""
    near = z.clamp(-0.25, 0.25)
    series = torch.ones_like(z)
    for n in range(13, 2, -1):
        series = 1 + near / n * series
    return torch.where(near == z, near.square() / 2 * series, z.exp() - z - 1)

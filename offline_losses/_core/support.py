"""Probability on the atoms of a support [K], sorted and of any spacing: mass divided between neighbors, and in bins."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offline_losses._core.checks import Knob, check_axis, check_float, leads, present
from offline_losses._core.errors import describe, refuse, refuse_shape
from offline_losses._core.reduce import clamped

FAR = 8.0
"""Standard deviations beyond the support from which on a tail is a ratio to the density, to all digits of a double."""

FARTHEST = 1e12
"""Standard deviations beyond the support from which on all mass lies in the last bin, whatever its width."""

SCALE = 8.0
"""By how much units are enlarged, so that the range of a support, bins included, is a float wherever its atoms are."""


def check_support(function: str, support: Tensor, **others: Tensor) -> None:
    """Refuse anything but floating-point tensors, and a support that is no vector of at least two atoms."""
    check_float(function, **others, support=support)
    if support.ndim != 1 or len(support) < 2:
        expected = "shape [K] of at least two atoms"
        refuse(ValueError, function, "support", expected, describe(support), "All samples share one sorted vector.")


def check_samples(function: str, prediction: Tensor, target: Tensor, quantile: Tensor | None) -> None:
    """Refuse samples of one batch that do not belong to the other's, up to critics, and levels of another shape."""
    check_float(function, prediction=prediction, target=target, **present(quantile=quantile))
    check_axis(function, "prediction", prediction, "quantile")
    check_axis(function, "target", target, "sample")
    batch, size = target.shape[:-1], prediction.shape[-1]
    if not leads(batch, prediction.shape[:-1]):
        expected = (
            f"shape [{', '.join([*map(str, prediction.shape[:-1]), 'M'])}] (the prediction's batch, up to critics)"
        )
        mend = "Nothing is broadcast between samples: reshape it to match."
        refuse(ValueError, function, "target", expected, f"shape {list(target.shape)}", mend)
    shapes = [torch.Size([size]), torch.Size([*batch, size]), prediction.shape]
    if quantile is not None and quantile.shape not in shapes:
        refuse_shape(function, "quantile", quantile, list(dict.fromkeys(shapes)))


def divided(
    mass: Tensor,  # [*batch, N]
    at: Tensor,  # [*batch, N]
    support: Tensor,  # [K]
) -> Tensor:
    """Mass [*batch, K]: each piece on the two atoms around it, the more the nearer, and outside on the last atom.

    It is added up where it belongs: over all pairs of a piece and an atom there would be N times as much to compute.
    """
    at, support = at / SCALE, support / SCALE
    at = clamped(at, support[0], support[-1])
    lower = torch.bucketize(at.detach().contiguous(), support.detach()[1:-1].contiguous(), right=True)
    left = support[lower]
    gap = support[lower + 1] - left
    above = mass * ((at - left) / torch.where(gap == 0, 1.0, gap))
    none = mass.new_zeros((*mass.shape[:-1], len(support)))
    return none.scatter_add(-1, lower, mass - above).scatter_add(-1, lower + 1, above)


def normal_mass(
    value: Tensor,  # [*batch]
    support: Tensor,  # [K]
    sigma_to_bin_ratio: Knob,  # []
) -> Tensor:
    """Share [*batch, K] of a normal distribution in each bin, whose edges lie midway between the atoms.

    All is relative to the density at the point of the range that is nearest to the value, in standard deviations: far
    outside no difference of tails is lost to an underflow. A bin too narrow for such a difference is its density times
    its width, with the next term of the series. On a support without any width all bins have equal shares.
    """
    value, support = value.unsqueeze(-1) / SCALE, support / SCALE
    half = support.diff() / 2
    half = torch.cat([half[:1], half, half[-1:]])
    edges = torch.cat([support[:1] - half[:1], support + half[1:]])
    lower, upper = edges[:-1], edges[1:]
    sigma = sigma_to_bin_ratio * (support[-1] - support[0]) / (len(support) - 1)
    flat = sigma == 0
    sigma = torch.where(flat, 1.0, sigma)
    nearest = clamped(value, edges[0], edges[-1])
    outside = clamped((value - nearest).abs() / sigma, high=FARTHEST)

    def distance(point: Tensor) -> Tensor:
        return torch.where(point > value, point - nearest, nearest - point) / sigma

    def density(z: Tensor) -> Tensor:
        return (-z * (z / 2 + outside)).exp()

    def tail(z: Tensor) -> Tensor:
        inside = torch.erfc((z + outside) / math.sqrt(2)) * (clamped(outside, high=FAR).square() / 2).exp()
        return torch.where(outside < FAR, inside, density(z) * _mills_ratio(z + outside))

    width, middle, edge = (half[:-1] + half[1:]) / sigma, distance((lower + upper) / 2), tail(distance(edges))
    near, far = edge[..., :-1], edge[..., 1:]
    around = (lower <= value) & (value < upper)
    difference = torch.where(around, 2 - near - far, (near - far).abs())
    curvature = ((middle + outside).square() - 1) / 24
    product = math.sqrt(2 / math.pi) * width * density(middle) * (1 + width.square() * curvature)
    narrow = width * (1 + middle + outside) < (1920 * torch.finfo(edge.dtype).eps) ** 0.2
    mass = torch.where(flat, 1.0, torch.where(narrow, product, difference))
    return mass / mass.sum(-1, keepdim=True)


def _mills_ratio(x: Tensor) -> Tensor:
    """Twice the tail of the normal distribution beyond x over its density, both as if that were 1 at 0; for x >= FAR.

    A continued fraction, since PyTorch's `erfcx` takes fifty times as long as `erfc`, which underflows.
    """
    x = fraction = clamped(x, FAR)
    for n in range(12, 0, -1):
        fraction = x + n / fraction
    return math.sqrt(2 / math.pi) / fraction

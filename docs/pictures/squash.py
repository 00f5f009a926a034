"""One function over a range of numbers, beside the identity."""

from __future__ import annotations

from collections.abc import Callable

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def _curve(axes: Axes, reach: float, *functions: tuple[str, Callable[[torch.Tensor], torch.Tensor]]) -> None:
    x = torch.linspace(-reach, reach, 401)
    axes.plot(x, x, color=SOFT, linewidth=0.7)
    for label, function in functions:
        axes.plot(x, function(x), label=label)
    limit = max(float(function(x).abs().max()) for _, function in functions)
    axes.set(xlabel="x", ylim=(-limit, limit))


def symlog(axes: Axes) -> str:
    _curve(axes, 100, ("", ol.symlog))
    return "small numbers as they are (gray: the identity), large ones by their magnitude"


def symexp(axes: Axes) -> str:
    _curve(axes, 3, ("", ol.symexp))
    return "the inverse of <code>symlog</code>"


def signed_hyperbolic(axes: Axes) -> str:
    curves = ((f"{e}", lambda x, e=e: ol.signed_hyperbolic(x, epsilon=e)) for e in (0.1, 0.001))
    _curve(axes, 100, *curves)
    axes.legend(title="epsilon", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "a square root on both sides, and a little of the identity"


def signed_parabolic(axes: Axes) -> str:
    curves = ((f"{e}", lambda x, e=e: ol.signed_parabolic(x, epsilon=e)) for e in (0.1, 0.001))
    _curve(axes, 6, *curves)
    axes.legend(title="epsilon", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "the inverse of <code>signed_hyperbolic</code>"

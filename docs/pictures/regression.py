"""Penalties over the residual u = target − prediction."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import Axes

U = torch.linspace(-2.5, 2.5, 201)


def _penalty(axes: Axes, name: str, label: str = "", **knobs: float) -> None:
    loss = getattr(ol, name)(torch.zeros_like(U), target=U, reduction="none", **knobs)
    axes.plot(U, loss, label=label)
    axes.set(xlabel="u = target − prediction", ylabel="loss", ylim=(-0.1, 5), yticks=(0, 2, 4))


def squared_loss(axes: Axes) -> str:
    _penalty(axes, "squared_loss")
    return "a parabola, the same on both sides"


def huber_loss(axes: Axes) -> str:
    for delta in (2.0, 1.0, 0.5):
        _penalty(axes, "huber_loss", f"{delta}", delta=delta)
    axes.legend(title="delta", ncols=3, loc="upper center")
    return "a parabola that becomes a line at ±delta"


def expectile_loss(axes: Axes) -> str:
    for expectile in (0.5, 0.7, 0.9):
        _penalty(axes, "expectile_loss", f"{expectile}", expectile=expectile)
    axes.legend(title="expectile", ncols=3, loc="upper center")
    return "above ½, a prediction that is too low costs more"


def quantile_loss(axes: Axes) -> str:
    for quantile in (0.5, 0.7, 0.9):
        _penalty(axes, "quantile_loss", f"{quantile}", quantile=quantile)
    axes.legend(title="quantile", ncols=3, loc="upper center")
    return "the same asymmetry, with straight sides"

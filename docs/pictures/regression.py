"""Penalties over the residual u = target − prediction."""

from __future__ import annotations

import torch
from pictures import Axes

import offline_losses as ol

U = torch.linspace(-2.5, 2.5, 201)


def _penalty(axes: Axes, name: str, label: str = "", **knobs: float) -> None:
    loss = getattr(ol, name)(torch.zeros_like(U), target=U, reduction="none", **knobs)
    axes.plot(U, loss, label=label)
    axes.set(xlabel="u = target − prediction", ylim=(-0.1, 4), yticks=(0, 2, 4))


def squared_loss(axes: Axes) -> str:
    _penalty(axes, "squared_loss")
    return "u², the same on both sides"


def huber_loss(axes: Axes) -> str:
    for delta in (2.0, 1.0, 0.5):
        _penalty(axes, "huber_loss", f"δ = {delta}", delta=delta)
    axes.legend()
    return "a parabola that becomes a line at ±δ"


def expectile_loss(axes: Axes) -> str:
    for expectile in (0.5, 0.7, 0.9):
        _penalty(axes, "expectile_loss", f"{expectile}", expectile=expectile)
    axes.legend(title="expectile")
    return "too low a prediction costs more, the higher the expectile"


def quantile_loss(axes: Axes) -> str:
    for quantile in (0.5, 0.7, 0.9):
        _penalty(axes, "quantile_loss", f"{quantile}", quantile=quantile)
    axes.legend(title="quantile")
    return "the same asymmetry, with straight sides"

"""Noise on its way to returns: to a distribution of them, or to one value."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes

TIMES = torch.linspace(0, 1, 21)


def _paths(axes: Axes, noise: torch.Tensor, target: torch.Tensor) -> None:
    paths = [ol.flow_point(noise[:, None], target[:, None], t.expand(len(noise))).squeeze(-1) for t in TIMES]
    axes.plot(TIMES, torch.stack(paths), color=SOFT, linewidth=0.8)
    axes.plot([0] * len(noise), noise, "o", color=BLUE, markersize=3)
    axes.plot([1] * len(noise), target, "o", color=ORANGE, markersize=4)
    axes.set(xlabel="time", xticks=(0, 1))


def value_flow_loss(axes: Axes) -> str:
    returns = torch.tensor([0.0, 0.0, 3.0, 3.5, 4.0, 4.0])
    noise = torch.linspace(-1.5, 1.5, 6)
    _paths(axes, noise, returns)
    axes.set(ylabel="return", xticklabels=("0, noise", "1, return"))
    loss = ol.value_flow_loss(returns - noise, noise, returns)
    return f"each noise has a return of its own; the slopes are the targets (loss of them: {loss:g})"


def floq_loss(axes: Axes) -> str:
    noise = torch.linspace(-1.5, 1.5, 6)
    _paths(axes, noise, torch.full((6,), 3.0))
    axes.set(ylabel="value", xticklabels=("0, noise", "1, value"))
    loss = ol.floq_loss(3.0 - noise, noise, torch.tensor(3.0))
    return f"all noises have one target, a value (loss of these slopes: {loss:g})"

"""Noise on its way to two actions, and a policy of one step beside a critic."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, GREEN, ORANGE, SOFT, Axes


def flow_point(axes: Axes) -> str:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(12, 1, generator=generator)
    action = torch.tensor([-1.5, 1.5]).repeat(6).unsqueeze(-1)
    times = torch.linspace(0, 1, 21)
    lines = torch.stack([ol.flow_point(noise, action, t.expand(12)).squeeze(-1) for t in times])
    axes.plot(times, lines, color=SOFT, linewidth=0.8)
    axes.plot([0] * 12, noise, "o", color=BLUE, markersize=3)
    axes.plot([1] * 12, action, "o", color=ORANGE, markersize=4)
    axes.set(xlabel="time", xticks=(0, 1), xticklabels=("0, noise", "1, action"), ylabel="point")
    return "lines from draws of noise (blue) to actions of the data (orange)"


def flow_matching_loss(axes: Axes) -> str:
    velocity = torch.linspace(-4, 4, 161)
    noise, action = torch.zeros(2, 1), torch.tensor([[-1.5], [1.5]])
    for weights in ((1.0, 1.0), (1.0, 3.0)):
        weight = torch.tensor(weights)
        loss = torch.stack([ol.flow_matching_loss(v.expand(2, 1), noise, action, weight=weight) for v in velocity])
        (line,) = axes.plot(velocity, loss, label=f"{weights[0]:g} : {weights[1]:g}")
        best = velocity[loss.argmin()]
        axes.plot(best, loss.min(), "o", color=line.get_color(), markersize=5)
    axes.plot(action, [0.2, 0.2], "|", color=SOFT)
    axes.set(xlabel="velocity at the noise 0, time 0", ylabel="loss", ylim=(0, 12))
    axes.legend(title="weights", loc="upper center", ncols=2)
    return "the best velocity (dots) is the weighted mean of those to the actions (ticks)"


def distillation_loss(axes: Axes) -> str:
    action = torch.linspace(-1, 2.5, 201)
    q, end = 2 - (action - 2) ** 2 / 2, torch.zeros(201, 1)
    for alpha, color in ((0.3, ORANGE), (1.0, GREEN), (10.0, BLUE)):
        loss = ol.distillation_loss(action.unsqueeze(-1), end, q, distillation_weight=alpha, reduction="none")
        axes.plot(action, loss - loss.min(), color=color, label=f"{alpha:g}")
        axes.plot(action[loss.argmin()], 0, "o", color=color, markersize=5, clip_on=False)
    axes.axvline(0, color=SOFT, linestyle=":", linewidth=0.8)
    axes.set(xlabel="action", ylabel="loss", ylim=(-0.1, 4))
    axes.legend(title="distillation_weight", ncols=3, loc="upper center")
    return "the minimum (dots) leaves the flow's end (dotted) for the top of Q, which is at 2"

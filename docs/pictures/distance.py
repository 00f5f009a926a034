"""Samples of a policy beside those of the data, and one action beside all of them."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

DATA = torch.tensor([-1.2, -1.0, -0.9, 0.9, 1.0, 1.1])


def mmd_penalty(axes: Axes) -> str:
    shift = torch.linspace(-3, 3, 121)
    policy = (DATA + shift[:, None]).unsqueeze(-1)
    data = DATA.expand(121, 6).unsqueeze(-1)
    for kernel in ("gaussian", "laplacian"):
        penalty = ol.mmd_penalty(policy, data, kernel=kernel, bandwidth=0.5, reduction="none")
        axes.plot(shift, penalty, label=kernel)
    axes.set(xlabel="shift of the policy's actions", ylabel="penalty", ylim=(-0.05, 1.25))
    axes.legend(ncols=2, loc="upper center")
    return "zero where both are the same; lower again where one of two clusters covers the other"


def nearest_distance_penalty(axes: Axes) -> str:
    action = torch.linspace(-2, 2, 201).unsqueeze(-1)
    here, states = torch.zeros(201, 1), torch.tensor([[0.0], [0.0], [0.0], [0.3], [0.3], [0.3]])
    for scale in (0.0, 4.0, 10.0):
        penalty = ol.nearest_distance_penalty(
            action, here, DATA[:, None], states, observation_scale=scale, reduction="none"
        )
        axes.plot(action, penalty, label=f"{scale:g}")
    axes.plot(DATA, [-0.1] * 6, "|", color=SOFT)
    axes.set(xlabel="policy's action", ylabel="penalty", ylim=(-0.2, 3))
    axes.legend(title="observation_scale", ncols=3, loc="upper center")
    return "the actions on the right (ticks) are of another state: a larger scale forbids them"

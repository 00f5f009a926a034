"""Densities of a single action dimension."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import Axes

DEVIATIONS = (0.4, 0.8, 2.0)


def gaussian_log_prob(axes: Axes) -> str:
    action = torch.linspace(-2, 2, 201).unsqueeze(-1)
    for std in DEVIATIONS:
        log_prob = ol.gaussian_log_prob(torch.zeros_like(action), torch.tensor([std]).log(), action)
        axes.plot(action.squeeze(-1), log_prob, label=f"{std}")
    axes.set(xlabel="action", ylabel="log_prob", ylim=(-6, 2.5))
    axes.legend(title="exp(log_std)", ncols=3, loc="upper center")
    return "a parabola, steeper for a narrow policy"


def tanh_gaussian_log_prob(axes: Axes) -> str:
    action = torch.linspace(-0.995, 0.995, 400).unsqueeze(-1)
    for std in DEVIATIONS:
        log_prob = ol.tanh_gaussian_log_prob(torch.zeros_like(action), torch.tensor([std]).log(), action=action)
        axes.plot(action.squeeze(-1), log_prob.exp(), label=f"{std}")
    axes.set(xlabel="action", ylabel="exp(log_prob)", ylim=(0, 2.6), xticks=(-1, 0, 1))
    axes.legend(title="exp(log_std)", ncols=3, loc="upper center")
    return "a wide policy piles up at the ends"


def uniform_log_density(axes: Axes) -> str:
    action = torch.linspace(-2.5, 2.5, 501).unsqueeze(-1)
    for bound in (0.5, 1.0, 2.0):
        high = torch.tensor([bound])
        axes.plot(action.squeeze(-1), ol.uniform_log_density(action, -high, high).exp(), label=f"{bound}")
    axes.set(xlabel="action", ylabel="exp(log_density)", ylim=(0, 1.7))
    axes.legend(title="high = -low", ncols=3, loc="upper center")
    return "one over the volume of the box, whatever its size"
